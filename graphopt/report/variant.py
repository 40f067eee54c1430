"""Figures of one program, counted and measured in torch and in ONNX Runtime."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.cost import cost
from graphopt.errors import SpecError
from graphopt.exporters.onnx import export_onnx
from graphopt.exporters.runtime import run_session, session
from graphopt.measure import Comparison
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


def variant(program: Program, measured: Comparison, name: str) -> Variant:
    """Put the figures of a program together.

    Args:
        program: The program.
        measured: Times of calls named ``torch NAME`` and perhaps ``onnx NAME``.
        name: Its name there.
    """
    total = cost(program)
    onnx = measured.latencies.get(f"onnx {name}")
    return Variant(
        parameters=total.parameters,
        macs=total.macs,
        torch_seconds=measured.latencies[f"torch {name}"].median_seconds,
        onnx_seconds=None if onnx is None else onnx.median_seconds,
    )


def check_conditions(repeats: int, warm_up: int, threads: int | None) -> None:
    """Refuse to measure under conditions that give nothing.

    Raises:
        SpecError: Fewer than two repeats, less than no warm-up, or no thread.
    """
    if repeats < 2 or warm_up < 0 or (threads is not None and threads < 1):
        raise SpecError(
            f"found repeats={repeats}, warm_up={warm_up} and threads={threads}, wanted at least 2, 0 and 1 of them"
        )


def torch_call(program: Program) -> Callable[[], Any]:
    """Return a call of a program on its example inputs.

    Args:
        program: The program.
    """

    def call() -> Any:
        with torch.inference_mode():
            return program(*program.args, **program.kwargs)

    return call


def onnx_call(program: Program, path: Path, threads: int) -> Callable[[], Any]:
    """Export a program and return a call of the file on the example inputs.

    Args:
        program: The program.
        path: A file ending in ``.onnx``.
        threads: Threads that one operator may use.
    """
    report = export_onnx(program, path)
    leaves = pytree.tree_leaves((program.args, dict(program.kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    feeds = dict(zip(report.inputs, tensors, strict=True))
    opened = session(path, threads)
    return lambda: run_session(opened, feeds)


def device_of(program: Program) -> torch.device:
    """Return where a program's weights are."""
    return next((tensor.device for tensor in program.parameters.values()), torch.device("cpu"))


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Let torch use a number of threads inside the block, and tell how many it uses.

    Args:
        count: Threads that one operator may use; None leaves them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


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
