"""What a result gained: sizes and measured times, before and after."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import ExportError, ExportMismatchError
from graphopt.exporters.runtime import require_onnx
from graphopt.measure import compare_latency
from graphopt.pass_manager.result import Result
from graphopt.program import Program
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


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A program before and after its passes, measured in turns.

    Attributes:
        model: Class of the model.
        before: The captured program.
        after: The program after the last pass.
        threads: Threads that one operator might use, in both runtimes.
        repeats: Timed rounds.
        device: Where torch ran; ONNX Runtime runs on the CPU.
        notes: What a reader should know.
    """

    model: str
    before: Variant
    after: Variant
    threads: int
    repeats: int
    device: str
    notes: tuple[str, ...] = ()

    @property
    def ratios(self) -> dict[str, float]:
        """Each figure after over the same before; one that was not measured, or is zero, is left out."""
        before, after = asdict(self.before), asdict(self.after)
        return {name: after[name] / value for name, value in before.items() if value and after[name] is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the figures and their ratios as values that JSON knows."""
        return {**asdict(self), "notes": list(self.notes), "ratios": self.ratios}


def benchmark(
    result: Result, *, repeats: int = 20, warm_up: int = 3, threads: int | None = None, onnx: bool = True
) -> Benchmark:
    """Measure a result against the program it was made from, on the example inputs.

    The programs and the runtimes take turns, so that the machine's moods fall on all alike.

    Args:
        result: What a pipeline returned, or `graphopt.load`.
        repeats: Timed rounds, at least 2.
        warm_up: Rounds before the clock starts.
        threads: Threads that one operator may use; what torch is set to by default.
        onnx: Whether both programs are exported and measured in ONNX Runtime too.

    Raises:
        SpecError: Fewer than two repeats, or no thread.
        MissingExtraError: ONNX Runtime is asked for and its packages are not installed.
        ExportMismatchError: ONNX Runtime disagrees with torch.
    """
    check_conditions(repeats, warm_up, threads)
    if onnx:
        require_onnx()
    after = result.program
    before = after if after.lineage is None else after.lineage.origin
    device = device_of(after)
    with torch_threads(threads) as count, tempfile.TemporaryDirectory() as folder:
        calls = {"torch before": torch_call(before), "torch after": torch_call(after)}
        exported, refused = _onnx_calls(before, after, Path(folder), count) if onnx else ({}, ())
        measured = compare_latency({**calls, **exported}, repeats=repeats, warm_up=warm_up, device=device)
    return Benchmark(
        model=after.source.class_name,
        before=variant(before, measured, "before"),
        after=variant(after, measured, "after"),
        threads=count,
        repeats=repeats,
        device=str(device),
        notes=(
            *refused,
            *(("the result rewrote nothing: before and after are one program",) if before is after else ()),
            *unrest(measured),
        ),
    )


def _onnx_calls(
    before: Program, after: Program, folder: Path, threads: int
) -> tuple[dict[str, Callable[[], object]], tuple[str, ...]]:
    """Calls of both programs in ONNX Runtime; none, and a note, where one of them has no ONNX form.

    Raises:
        ExportMismatchError: ONNX Runtime disagrees with torch.
    """
    try:
        programs = {"before": before, "after": after}
        return {f"onnx {name}": onnx_call(one, folder / f"{name}.onnx", threads) for name, one in programs.items()}, ()
    except ExportMismatchError:
        raise
    except ExportError as error:
        return {}, (f"ONNX Runtime was not measured: {error}",)
