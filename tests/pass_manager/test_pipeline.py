from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pass_manager.example_passes import Scale, Step
from torch import fx, nn

from graphopt.errors import (
    BudgetError,
    GraphoptError,
    PassError,
    PostconditionError,
    PreconditionError,
    SpecError,
    VerificationError,
)
from graphopt.pass_manager import (
    Pass,
    PassContext,
    PassResult,
    Pipeline,
    PrintingInstrument,
    Result,
    TimingInstrument,
    VerifyInstrument,
    instruments,
)
from graphopt.program import Program, Source

UNVERIFIED = PassContext(verify=False)


@pytest.fixture
def program() -> Program:
    graph = fx.Graph()
    x = graph.placeholder("x")
    weight, bias = graph.get_attr("weight"), graph.get_attr("bias")
    graph.output(graph.call_function(torch.ops.aten.linear.default, (x, weight, bias)))
    graph_module = fx.GraphModule(nn.Linear(2, 2), graph)
    return Program(graph_module, (torch.ones(3, 2),), {}, Source("Linear", "0"), True)


class Recorder:
    """Writes down what an instrument is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def before(self, pass_: Pass, program: Program) -> None:
        self.told.append(f"before {pass_}")

    def after(self, pass_: Pass, program: Program, result: PassResult) -> None:
        self.told.append(f"after {pass_} {result.program is program}")


def test_passes_run_in_order_on_each_others_programs(program: Program) -> None:
    recorder = Recorder()
    result = Pipeline([Step(label="a"), Scale(), Step(label="b")]).run(program, UNVERIFIED, instruments=[recorder])
    assert recorder.told == [
        "before step{label=a}",
        "after step{label=a} False",
        "before scale",
        "after scale True",
        "before step{label=b}",
        "after step{label=b} False",
    ]
    assert [report.spec for report in result.report.passes] == ["step{label=a}", "scale", "step{label=b}"]
    assert result.program is not program
    assert result.programs == {"main": result.program}
    assert result.plan is None


@pytest.mark.parametrize("passes", [(), [], ""])
def test_empty_pipeline_is_refused(passes: Any) -> None:
    with pytest.raises(SpecError, match="wanted"):
        Pipeline(passes)


def test_stranger_in_a_pipeline_is_refused() -> None:
    passes: Any = [Scale(), "scale"]
    with pytest.raises(SpecError, match="found 'scale' in a pipeline"):
        Pipeline(passes)


def test_text_of_a_pipeline() -> None:
    pipeline = Pipeline([Scale(ratio=0.25), Step(label="a")])
    assert str(pipeline) == "scale{ratio=0.25},step{label=a}"
    assert repr(pipeline) == "Pipeline('scale{ratio=0.25},step{label=a}')"
    assert Pipeline(Scale()).passes == (Scale(),)


@pytest.mark.parametrize(
    ("fails", "error"),
    [
        ("requires", PreconditionError),
        ("budget", BudgetError),
        ("ensures", PostconditionError),
        ("lie", PostconditionError),
    ],
)
def test_own_errors_keep_their_type_and_say_where(fails: Any, error: type[GraphoptError], program: Program) -> None:
    failing = Step(label="b", fails=fails)
    with pytest.raises(error) as caught:
        Pipeline([Scale(), Step(label="a"), failing]).run(program, UNVERIFIED)
    assert type(caught.value) is error
    assert caught.value.__notes__ == [f"in pass 3 of 3, {failing}; run before it: scale,step{{label=a}}"]


def test_other_errors_are_wrapped_and_chained(program: Program) -> None:
    with pytest.raises(PassError) as caught:
        Pipeline(Step(label="a", fails="crash")).run(program, UNVERIFIED)
    assert str(caught.value) == (
        "step failed with KeyError: 'lost'; in pass 1 of 1, step{label=a,fails=crash}; run before it: nothing"
    )
    assert isinstance(caught.value.__cause__, KeyError)


def test_seconds_and_figures_are_reported(program: Program) -> None:
    result = Pipeline([Step(label="a"), Scale()]).run(program, UNVERIFIED)
    told = result.report.to_dict()
    assert told["seconds"] == sum(report["seconds"] for report in told["passes"]) > 0
    assert {key: value for key, value in told["passes"][0].items() if key != "seconds"} == {
        "name": "step",
        "spec": "step{label=a}",
        "before": {"flops": 2.0},
        "after": {"flops": 1.0},
        "frozen": [],
        "refused": [],
        "notes": [],
    }


@pytest.mark.parametrize(
    ("fuel", "burns", "run"), [(None, None, 3), (0, None, 0), (1, None, 1), (2, None, 2), (4, 2, 2), (3, 2, 1)]
)
def test_passes_stop_when_fuel_is_spent(fuel: int | None, burns: int | None, run: int, program: Program) -> None:
    passes = [Step(label=label, burns=burns) for label in "abc"]
    context = PassContext(verify=False, fuel=fuel)
    if (fuel, burns) == (3, 2):
        with pytest.raises(PostconditionError, match="made 2 rewrites, wanted at most 1"):
            Pipeline(passes).run(program, context)
        return
    reports = Pipeline(passes).run(program, context).report.passes
    assert [report.refused for report in reports] == [()] * run + [("not run: no fuel left",)] * (3 - run)


def test_pass_is_told_how_much_fuel_is_left(program: Program) -> None:
    with pytest.raises(PostconditionError, match="made 4 rewrites, wanted at most 3"):
        Pipeline([Step(label="a", burns=2), Step(label="b", fails="greedy")]).run(
            program, PassContext(verify=False, fuel=5)
        )


def test_unchanged_passes_use_no_fuel(program: Program) -> None:
    reports = (
        Pipeline([Scale(), Scale(), Step(label="a")]).run(program, PassContext(verify=False, fuel=1)).report.passes
    )
    assert [report.refused for report in reports] == [(), (), ()]


def test_programs_of_a_pass_are_not_left_stale(program: Program) -> None:
    result = Pipeline([Step(label="a", several=True), Scale()]).run(program, UNVERIFIED)
    assert sorted(result.programs) == ["cached", "full"]
    with pytest.raises(PreconditionError, match="put step before that pass"):
        Pipeline([Step(label="a", several=True), Step(label="b")]).run(program, UNVERIFIED)


def test_timing_instrument_names_each_pass(program: Program) -> None:
    timing = TimingInstrument()
    Pipeline([Scale(), Step(label="a")]).run(program, UNVERIFIED, instruments=[timing])
    assert [name for name, _ in timing.seconds] == ["scale", "step{label=a}"]
    assert all(seconds >= 0 for _, seconds in timing.seconds)


def test_printing_instrument_prints_what_changed(program: Program) -> None:
    written: list[str] = []
    printing = PrintingInstrument(written.append)
    result = Pipeline([Scale(), Step(label="a")]).run(program, UNVERIFIED, instruments=[printing])
    assert written == [
        f"# before any pass\n{program}\n",
        "# after scale: unchanged\n",
        f"# after step{{label=a}}\n{result.program}\n",
    ]


def test_verify_instrument_checks_changed_programs_only(program: Program) -> None:
    checked: list[bool] = []
    verify = VerifyInstrument(lambda before, result: checked.append(before is program and result.changed))
    Pipeline([Scale(), Step(label="a"), Scale()]).run(program, UNVERIFIED, instruments=[verify])
    assert checked == [True]


def test_verification_is_on_by_default(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(before: Program, result: PassResult) -> None:
        raise VerificationError(f"{result.report.name} is wrong")

    monkeypatch.setattr(instruments, "verify", refuse)
    with pytest.raises(VerificationError, match="step is wrong") as caught:
        Pipeline(Step(label="a")).run(program)
    assert caught.value.__notes__ == ["in pass 1 of 1, step{label=a}; run before it: nothing"]
    assert Pipeline(Step(label="a")).run(program, UNVERIFIED).report.passes[0].name == "step"


def test_save_hands_on_to_the_exporter(program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved: list[tuple[Any, Path]] = []
    monkeypatch.setattr(Result, "writer", lambda result, path: saved.append((result, path)))
    result = Pipeline(Scale()).run(program)
    assert result.save(str(tmp_path / "out")) == tmp_path / "out"
    assert saved == [(result, tmp_path / "out")]


def test_module_computes_what_the_program_does(program: Program) -> None:
    result = Pipeline(Scale()).run(program)
    torch.testing.assert_close(result.module()(*program.args), program(*program.args), rtol=0, atol=0)


def test_context_refuses_data_that_can_be_read_once() -> None:
    def batches() -> Iterator[torch.Tensor]:
        yield torch.ones(1)

    with pytest.raises(PreconditionError, match="calibration is generator"):
        PassContext(calibration=batches())
    assert list(PassContext(calibration=[1, 2]).need_calibration("this")) == [1, 2]


def test_context_says_what_is_missing() -> None:
    with pytest.raises(PreconditionError, match="taylor needs data and found none; pass calibration=<batches>"):
        PassContext().need_calibration("taylor")
    with pytest.raises(PreconditionError, match="taylor needs a loss and found none"):
        PassContext().need_loss("taylor")
    with pytest.raises(SpecError, match="fuel is -1"):
        PassContext(fuel=-1)
