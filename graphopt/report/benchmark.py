"""What a result gained: sizes and measured times, before and after."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.cost import cost
from graphopt.errors import SpecError
from graphopt.exporters.onnx import export_onnx
from graphopt.exporters.runtime import require_onnx, run_session, session
from graphopt.measure import Comparison, compare_latency
from graphopt.pass_manager.result import Result
from graphopt.program import Program

UNREST = 0.3
"""Distance of the quartiles, as a share of the median, beyond which a report warns of the machine."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Figures of one program.

    Attributes:
        parameters: Number of weights.
        macs: Multiply-accumulates of one call on the example inputs.
        torch_seconds: Median time of a call in torch.
        onnx_seconds: Median time of a call in ONNX Runtime; None where it was not measured.
    """

    parameters: int
    macs: int
    torch_seconds: float
    onnx_seconds: float | None


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
        ExportError: A program cannot be exported, or ONNX Runtime disagrees with torch.
    """
    if repeats < 2 or warm_up < 0 or (threads is not None and threads < 1):
        raise SpecError(
            f"found repeats={repeats}, warm_up={warm_up} and threads={threads}, wanted at least 2, 0 and 1 of them"
        )
    if onnx:
        require_onnx()
    after = result.program
    before = after if after.lineage is None else after.lineage.origin
    device = _device(after)
    with _torch_threads(threads) as count, tempfile.TemporaryDirectory() as folder:
        calls = {"torch before": _torch_call(before), "torch after": _torch_call(after)}
        if onnx:
            calls["onnx before"] = _onnx_call(before, Path(folder) / "before.onnx", count)
            calls["onnx after"] = _onnx_call(after, Path(folder) / "after.onnx", count)
        measured = compare_latency(calls, repeats=repeats, warm_up=warm_up, device=device)
    return Benchmark(
        model=after.source.class_name,
        before=_variant(before, measured, "before"),
        after=_variant(after, measured, "after"),
        threads=count,
        repeats=repeats,
        device=str(device),
        notes=(
            *(("the result rewrote nothing: before and after are one program",) if before is after else ()),
            *unrest(measured),
        ),
    )


def unrest(measured: Comparison) -> tuple[str, ...]:
    """Return a warning where the times of a call spread so far that its median means little.

    Args:
        measured: Times of several calls.
    """
    spreads = {name: found.iqr_seconds / found.median_seconds for name, found in measured.latencies.items()}
    name = max(spreads, key=spreads.__getitem__)
    if spreads[name] <= UNREST:
        return ()
    spread = f"half of the times of {name} spread over {spreads[name]:.0%} of their median"
    return (f"the machine was busy: {spread}; measure again when it is idle",)


def _variant(program: Program, measured: Comparison, name: str) -> Variant:
    total = cost(program)
    onnx = measured.latencies.get(f"onnx {name}")
    return Variant(
        parameters=total.parameters,
        macs=total.macs,
        torch_seconds=measured.latencies[f"torch {name}"].median_seconds,
        onnx_seconds=None if onnx is None else onnx.median_seconds,
    )


def _torch_call(program: Program) -> Callable[[], Any]:
    def call() -> Any:
        with torch.inference_mode():
            return program(*program.args, **program.kwargs)

    return call


def _onnx_call(program: Program, path: Path, threads: int) -> Callable[[], Any]:
    report = export_onnx(program, path)
    leaves = pytree.tree_leaves((program.args, dict(program.kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    feeds = dict(zip(report.inputs, tensors, strict=True))
    opened = session(path, threads)
    return lambda: run_session(opened, feeds)


def _device(program: Program) -> torch.device:
    return next((tensor.device for tensor in program.parameters.values()), torch.device("cpu"))


@contextlib.contextmanager
def _torch_threads(count: int | None) -> Iterator[int]:
    """Let torch use a number of threads inside the block, and tell how many it uses."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
