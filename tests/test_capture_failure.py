import inspect

import pytest
import torch
from torch import nn

from graphopt.capture_failure import Attempt, explain_export, explain_raise, source_line, summary
from graphopt.errors import CaptureError
from graphopt.tracing import capture


def failing() -> None:
    nn.functional.linear(torch.zeros(2, 3), torch.zeros(4, 5))


def failure_of(function) -> Exception:
    with Attempt() as attempt:
        function()
    return attempt.failed()


def test_attempt_keeps_ordinary_failures_and_passes_interrupts_on() -> None:
    def interrupted() -> None:
        with Attempt():
            raise KeyboardInterrupt

    assert type(failure_of(failing)) is RuntimeError
    with Attempt() as attempt:
        pass
    assert attempt.failure is None
    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_source_line_is_the_deepest_outside_torch() -> None:
    number = inspect.getsourcelines(failing)[1] + 1
    code = "nn.functional.linear(torch.zeros(2, 3), torch.zeros(4, 5))"
    assert source_line(failure_of(failing)) == f" ({__file__}:{number}: {code})"
    assert source_line(ValueError("never raised")) == ""


def test_source_line_looks_into_causes() -> None:
    def outer() -> None:
        try:
            failing()
        except RuntimeError as error:
            raise ValueError("wrapped") from error

    assert ": nn.functional.linear(" in source_line(failure_of(outer))


def test_summary_is_one_short_line_with_the_operator() -> None:
    failure = RuntimeError("first line " + "word " * 100 + "\nsecond line")
    failure.func = torch.ops.aten.nonzero.default
    text = summary(failure)
    assert text.startswith("RuntimeError: first line word word")
    assert text.endswith(" ... at operator aten.nonzero.default")
    assert len(text) < 260
    assert "second line" not in text


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("Could not guard on data-dependent expression u0 > 1", "replace the Python branch"),
        ("Found <class 'Thing'> in output, which is not a known type.", "torch.export.register_dataclass"),
        ("something else", "write that line with tensor operations"),
    ],
)
def test_advice_follows_the_failure(message: str, advice: str) -> None:
    text = str(explain_export(nn.ReLU(), RuntimeError(message)))
    assert text.startswith(f"ReLU runs but cannot be captured as a graph: RuntimeError: {message}; ")
    assert advice in text


def test_a_raising_model_is_told_to_run_first() -> None:
    assert str(explain_raise(nn.ReLU(), KeyError("x"))) == (
        "ReLU.forward raises on the example inputs: KeyError: 'x'; make the model run on these inputs, "
        "then capture again"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Lazy modules:UserWarning")
def test_models_without_sizes_and_with_scripted_parts_are_named() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(CaptureError, match=r"^0\.weight has no size yet; run the model once"):
        capture(nn.Sequential(nn.LazyLinear(3), nn.ReLU()), (x,))
    scripted = torch.jit.trace(nn.Linear(4, 4), x, check_trace=False)
    with pytest.raises(CaptureError, match=r"^1 is a ScriptModule, wanted the nn\.Module it was scripted from"):
        capture(nn.Sequential(nn.Linear(4, 4), scripted), (x,))
