"""What a result with a schedule gained: every program that a step may run, and a whole generation."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError
from graphopt.example_inputs import ExampleInputs
from graphopt.exporters.onnx import export_onnx
from graphopt.exporters.onnx_schedule import read_schedule
from graphopt.exporters.runtime import require_onnx
from graphopt.measure import compare_latency
from graphopt.pass_manager.figures import cached_step
from graphopt.pass_manager.result import Result
from graphopt.program import Program
from graphopt.report.generation import Generation, count_runs, unpredictable
from graphopt.report.variant import (
    Variant,
    check_conditions,
    device_of,
    onnx_call,
    torch_call,
    torch_threads,
    unrest,
    variant,
)
from graphopt.runtime.onnx_programs import open_programs
from graphopt.schedule import FULL, Schedule

ORIGINAL = "original"
_PER_STEP = ("macs", "torch_seconds", "onnx_seconds")


@dataclass(frozen=True, kw_only=True)
class ScheduleBenchmark:
    """The captured program and the programs of a schedule, measured in turns.

    Attributes:
        model: Class of the model.
        original: The captured program, which an uncached generation runs at every step.
        programs: The programs of the schedule by id.
        runs: How often each of them runs in what `totals` and `ratios` are about.
        steps: The number of steps of that: of a generation, or 1 for a cached step where the schedule depends on data.
        threads: Threads that one operator might use, in both runtimes.
        repeats: Timed rounds.
        device: Where torch ran; ONNX Runtime runs on the CPU.
        notes: What a reader should know.
    """

    model: str
    original: Variant
    programs: Mapping[str, Variant]
    runs: Mapping[str, int]
    steps: int
    threads: int
    repeats: int
    device: str
    notes: tuple[str, ...] = ()

    @property
    def totals(self) -> dict[str, float]:
        """Multiply-accumulates and seconds of all runs together; one that was not measured is left out."""
        found = {name: asdict(one) for name, one in self.programs.items()}
        known = [figure for figure in _PER_STEP if asdict(self.original)[figure] is not None]
        return {figure: sum(count * found[name][figure] for name, count in self.runs.items()) for figure in known}

    @property
    def ratios(self) -> dict[str, float]:
        """Each total over that of as many uncached steps; one that is zero there is left out."""
        whole = asdict(self.original)
        return {name: total / (self.steps * whole[name]) for name, total in self.totals.items() if whole[name]}

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, totals and ratios as values that JSON knows."""
        return {**asdict(self), "notes": list(self.notes), "totals": self.totals, "ratios": self.ratios}


def benchmark_schedule(
    result: Result,
    *,
    steps: int | None = None,
    repeats: int = 20,
    warm_up: int = 3,
    threads: int | None = None,
    onnx: bool = True,
) -> ScheduleBenchmark:
    """Measure the programs of a schedule and the program they were made from, on the example inputs.

    Programs and runtimes take turns. A generation is what the schedule runs, each program at its median time.

    Args:
        result: What a pipeline with a caching pass returned, or `graphopt.load`.
        steps: Steps of a generation; as many as a written-out schedule lists, or 20, by default.
        repeats: Timed rounds, at least 2.
        warm_up: Rounds before the clock starts.
        threads: Threads that one operator may use; what torch is set to by default.
        onnx: Whether all programs are exported and measured in ONNX Runtime too.

    Raises:
        GraphoptError: The result has no schedule.
        SpecError: Fewer than two repeats, or no thread.
        MissingExtraError: ONNX Runtime is asked for and its packages are not installed.
        ExportError: A program cannot be exported, or ONNX Runtime disagrees with torch.
    """
    check_conditions(repeats, warm_up, threads)
    if result.schedule is None:
        raise GraphoptError("the result has no schedule, wanted one made by a caching pass; use benchmark instead")
    if onnx:
        require_onnx()
    lineage = result.program.lineage
    original = result.program if lineage is None else lineage.origin
    programs = {name: result.programs[name] for name in result.schedule.programs}
    with torch_threads(threads) as count, tempfile.TemporaryDirectory() as folder:
        calls = {f"torch {name}": torch_call(one) for name, one in {ORIGINAL: original, **programs}.items()}
        if onnx:
            calls[f"onnx {ORIGINAL}"] = onnx_call(original, Path(folder) / "original.onnx", count)
            calls.update(_onnx_calls(result, Path(folder) / "steps", count))
        measured = compare_latency(calls, repeats=repeats, warm_up=warm_up, device=device_of(original))
    generation, notes = _generation(result.schedule, programs, steps)
    return ScheduleBenchmark(
        model=original.source.class_name,
        original=variant(original, measured, ORIGINAL),
        programs={name: variant(one, measured, name) for name, one in programs.items()},
        runs=generation.runs,
        steps=generation.steps,
        threads=count,
        repeats=repeats,
        device=str(device_of(original)),
        notes=(*notes, *unrest(measured)),
    )


def _generation(
    schedule: Schedule, programs: Mapping[str, Program], steps: int | None
) -> tuple[Generation, tuple[str, ...]]:
    """What is added up, and why it is a single cached step where it is."""
    reason = unpredictable(schedule)
    if reason is None:
        return count_runs(schedule, steps), ()
    runs = dict.fromkeys(cached_step(schedule, programs), 1)
    return Generation(1, runs), (f"{reason}; a cached step runs {' and '.join(runs)}, and that alone is added up",)


def _onnx_calls(result: Result, folder: Path, threads: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Export the programs and call their files on the example inputs, with what they read filled in as in torch."""
    export_onnx(result, folder)
    described = read_schedule(folder)
    opened = open_programs(folder, described, None, threads)
    full = result.programs[FULL]
    places = [node.name for node in full.graph_module.graph.find_nodes(op="placeholder")]
    given = dict(zip(places, ExampleInputs(full.args, dict(full.kwargs)).leaves(), strict=True))
    for name, program in opened.programs.items():
        extras = {key: result.programs[name].kwargs[key] for key in described.schedule.inputs(name)}
        yield f"onnx {name}", _step_call(program, {**given, **extras})


def _step_call(program: Program, values: Mapping[str, Any]) -> Callable[[], Any]:
    graph_module = program.graph_module
    inputs = [values[node.name] for node in graph_module.graph.find_nodes(op="placeholder")]
    return lambda: graph_module(*inputs)
