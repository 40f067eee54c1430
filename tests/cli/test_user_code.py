from pathlib import Path

import pytest

from graphopt.cli.targets import Target
from graphopt.cli.user_code import build_model, load_batches, load_loss
from graphopt.errors import CaptureError, GraphoptError, PreconditionError, SpecError


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_args_and_kwargs_come_back() -> None:
    positional, named = (build_model(Target("net_model.py", name)) for name in ("build", "build_named"))
    assert [tensor.shape for tensor in positional.args] == [(2, 8)]
    assert (named.args, list(named.kwargs)) == ((), ["x"])
    assert type(positional.model).__name__ == type(named.model).__name__ == "Net"


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("net_modle.py:build", SpecError, "found no file net_modle.py; did you mean net_model.py"),
        ("nowhere/net.py:build", SpecError, "found no file nowhere/net.py; there are none to choose from"),
        ("net_modle:build", SpecError, "found no module 'net_modle', wanted a file"),
        ("net_model.py:bild", SpecError, "net_model.py has no 'bild'; did you mean build"),
        (
            "net_model.py:number",
            SpecError,
            "net_model.py:number is a int, wanted a function that returns",
        ),
        ("net_model.py:net", SpecError, "net_model.py:net is a Net, wanted a function"),
        ("net_model.py:build_raising", CaptureError, "net_model.py:build_raising raises IndexError: index 7 is out"),
        ("net_model.py:Net", CaptureError, "net_model.py:Net returned a Net, wanted (model, args)"),
        ("net_model.py:only_a_model", CaptureError, "returned a Net, wanted (model, args) or (model, args, kwargs)"),
        ("net_model.py:one_of_one", CaptureError, "returned a tuple of 1, wanted (model, args)"),
        ("net_model.py:no_model", CaptureError, "returned a str as its model"),
        (
            "net_model.py:bare_input",
            CaptureError,
            "returned a Tensor as args, wanted a tuple of positional inputs",
        ),
        ("net_model.py:list_of_inputs", CaptureError, "returned a list as args"),
        ("net_model.py:odd_kwargs", CaptureError, "returned a list as kwargs, wanted a dict"),
    ],
)
def test_a_target_that_builds_no_model(target: str, kind: type[GraphoptError], message: str) -> None:
    with pytest.raises(kind) as caught:
        build_model(Target.parse(target))
    assert message in str(caught.value).splitlines()[0]


def test_what_the_builder_raises_is_told_with_its_line() -> None:
    with pytest.raises(CaptureError, match=r"net_model\.py:\d+: return Net\(\), torch\.randn\(1\)\[7\]\); make it run"):
        build_model(Target("net_model.py", "build_raising"))


@pytest.mark.parametrize("name", ["listed", "batches", "returned"])
def test_batches_can_be_gone_through_again(name: str) -> None:
    batches = load_batches(Target("net_data.py", name))
    first, second = ([batch.args[0].sum().item() for batch in batches] for _ in range(2))
    assert len(first) == 3
    assert first == second


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("number", SpecError, "net_data.py:number is a int, wanted batches"),
        ("nothing", PreconditionError, "net_data.py:nothing returned a NoneType, wanted batches"),
        ("raising", PreconditionError, "net_data.py:raising raises RuntimeError: no data today"),
    ],
)
def test_targets_that_are_no_batches(name: str, kind: type[GraphoptError], message: str) -> None:
    with pytest.raises(kind, match=message):
        load_batches(Target("net_data.py", name))


def test_a_loss_must_be_called() -> None:
    assert load_loss(Target("net_data.py", "loss")).__name__ == "loss"
    with pytest.raises(SpecError, match=r"net_data\.py:listed is a list, wanted a function of \(output, batch\)"):
        load_loss(Target("net_data.py", "listed"))
