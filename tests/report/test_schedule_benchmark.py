import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import graphopt
from graphopt.cost import cost
from graphopt.demo.model import DiT, DiTConfig
from graphopt.errors import GraphoptError, SpecError
from graphopt.report import ScheduleBenchmark, Variant, benchmark_schedule
from graphopt.report.schedule_table import schedule_tables

TAYLOR = "taylorseer{interval=3,layers=all}"
PRUNED = "prune-layers{layers=[1]}"


def optimized(passes: str, depth: int = 3) -> graphopt.Result:
    torch.manual_seed(0)
    model = DiT(DiTConfig(width=16, depth=depth, heads=2)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    args = (torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([3, 4]))
    return graphopt.optimize(model, args, passes=passes, context=graphopt.PassContext(verify=False))


@pytest.fixture(scope="module")
def result() -> graphopt.Result:
    return optimized(TAYLOR)


FOUND = ScheduleBenchmark(
    model="Net",
    original=Variant(parameters=100, macs=1000, torch_seconds=0.01, onnx_seconds=0.004),
    programs={
        "full": Variant(parameters=100, macs=1000, torch_seconds=0.011, onnx_seconds=0.0042),
        "cached": Variant(parameters=20, macs=100, torch_seconds=0.002, onnx_seconds=0.0006),
        "unused": Variant(parameters=1, macs=10**9, torch_seconds=9.0, onnx_seconds=9.0),
    },
    runs={"full": 4, "cached": 6},
    steps=10,
    threads=1,
    repeats=20,
    device="cpu",
    notes=("a note",),
)


def text(found: ScheduleBenchmark) -> list[str]:
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        for renderable in schedule_tables(found):
            console.print(renderable)
    return [line for line in (" ".join(line.split()) for line in capture.get().splitlines()) if line.strip("─ ")]


def test_a_generation_adds_up_what_runs() -> None:
    assert FOUND.totals == pytest.approx({"macs": 4600, "torch_seconds": 0.056, "onnx_seconds": 0.0204})
    assert FOUND.ratios == pytest.approx({"macs": 0.46, "torch_seconds": 0.56, "onnx_seconds": 0.51})
    document = json.loads(json.dumps(FOUND.to_dict()))
    assert (document["totals"], document["ratios"], document["runs"]) == (FOUND.totals, FOUND.ratios, FOUND.runs)
    assert document["programs"]["cached"]["parameters"] == 20


def test_table() -> None:
    assert text(FOUND) == [
        "Net",
        "program runs parameters MACs torch ONNX Runtime",
        "original 100 1k 10 ms 4 ms",
        "full 4 100 1k 11 ms 4.2 ms",
        "cached 6 20 100 2 ms 0.6 ms",
        "unused 0 1 1G 9000 ms 9000 ms",
        "a generation of 10 steps, MACs: 4.6k of 10k, 46.0%, 2.17x",
        "a generation of 10 steps, torch: 56 ms of 100 ms, 56.0%, 1.79x",
        "a generation of 10 steps, ONNX Runtime: 20.4 ms of 40 ms, 51.0%, 1.96x",
        "20 interleaved rounds, medians, 1 thread, torch on cpu",
        "note: a note",
    ]


def test_without_onnx_runtime_nothing_of_it_is_added_up() -> None:
    programs = {name: replace(one, onnx_seconds=None) for name, one in FOUND.programs.items()}
    found = replace(FOUND, original=replace(FOUND.original, onnx_seconds=None), programs=programs)
    assert set(found.totals) == set(found.ratios) == {"macs", "torch_seconds"}
    lines = text(found)
    assert "cached 6 20 100 2 ms -" in lines
    assert not any("ONNX Runtime:" in line for line in lines)


def test_every_program_of_the_schedule_is_measured(result: graphopt.Result) -> None:
    threads = torch.get_num_threads()
    found = benchmark_schedule(result, repeats=2, warm_up=0, threads=1, onnx=False)
    assert (found.steps, found.threads, found.repeats, found.device) == (20, 1, 2, "cpu")
    # Order 1 renews its difference at every full step but the first.
    assert found.runs == {"full": 1, "refresh": 8, "cached": 11}
    assert list(found.programs) == list(result.programs)
    for name, one in found.programs.items():
        total = cost(result.programs[name])
        assert (one.parameters, one.macs) == (total.parameters, total.macs)
        assert one.torch_seconds > 0
    assert found.original.macs == found.programs["full"].macs > 10 * found.programs["cached"].macs
    assert found.ratios["macs"] == pytest.approx((9 + 11 * found.programs["cached"].macs / found.original.macs) / 20)
    assert found.notes == () or found.notes[0].startswith("the machine was busy")
    assert torch.get_num_threads() == threads


def test_the_number_of_steps_can_be_given(result: graphopt.Result) -> None:
    found = benchmark_schedule(result, steps=5, repeats=2, warm_up=0, onnx=False)
    assert (found.steps, found.runs) == (5, {"full": 1, "refresh": 3, "cached": 1})


def test_the_original_is_the_captured_program() -> None:
    both = optimized(f"{PRUNED},{TAYLOR}")
    found = benchmark_schedule(both, repeats=2, warm_up=0, onnx=False)
    assert both.program.lineage is not None
    assert found.original.macs == cost(both.program.lineage.origin).macs > found.programs["full"].macs


def test_a_threshold_shows_its_cached_step() -> None:
    found = benchmark_schedule(optimized("first-block{threshold=0.3}"), repeats=2, warm_up=0, onnx=False)
    assert (found.steps, found.runs) == (1, {"probe": 1, "tail-cached": 1})
    macs = [found.programs[name].macs for name in ("probe", "tail-cached")]
    assert found.ratios["macs"] == pytest.approx(sum(macs) / found.original.macs)
    assert found.ratios["macs"] < 0.5
    assert found.notes[0] == (
        "which program a step runs depends on the data: it is cached where the probe moved by at most 0.3; a cached "
        "step runs probe and tail-cached, and that alone is added up"
    )
    assert any(line.startswith("a cached step, MACs: ") for line in text(found))


@pytest.mark.slow
def test_both_runtimes() -> None:
    shallow = optimized("taylorseer{interval=3,order=0,layers=all}", depth=1)
    found = benchmark_schedule(shallow, repeats=2, warm_up=1, threads=1)
    assert found.runs == {"full": 9, "cached": 11}
    assert all(one.onnx_seconds is not None and one.onnx_seconds > 0 for one in found.programs.values())
    assert set(found.totals) == {"macs", "torch_seconds", "onnx_seconds"}


def test_hoisted_programs_run_where_the_timestep_changes() -> None:
    found = benchmark_schedule(optimized(f"{TAYLOR},hoist-invariants"), repeats=2, warm_up=0, onnx=False)
    hoisted = {name: count for name, count in found.runs.items() if name.startswith("hoisted")}
    assert set(hoisted.values()) == {20}
    assert found.ratios["macs"] < 1


def test_what_cannot_be_measured(result: graphopt.Result) -> None:
    with pytest.raises(SpecError, match="found repeats=1"):
        benchmark_schedule(result, repeats=1)
    with pytest.raises(GraphoptError, match="no schedule, wanted one made by a caching pass; use benchmark instead"):
        benchmark_schedule(optimized(PRUNED), onnx=False)
