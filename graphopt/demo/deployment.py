"""Programs as they would be deployed: written as ONNX files, and timed in torch and in ONNX Runtime."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphopt.cost import cost
from graphopt.demo.report import Row
from graphopt.exporters.onnx import OnnxReport, export_onnx
from graphopt.exporters.runtime import run_session, session
from graphopt.measure import compare_latency
from graphopt.program import Program


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One program, exported and timed.

    Attributes:
        torch_milliseconds: Median time of a batch in torch.
        onnx_milliseconds: Median time of a batch in ONNX Runtime.
        onnx: What the exporter wrote and the errors it measured against torch.
    """

    torch_milliseconds: float
    onnx_milliseconds: float
    onnx: OnnxReport

    @property
    def relative_error(self) -> float:
        """The largest difference between ONNX Runtime and torch, relative to the output's largest magnitude."""
        return max(error.relative for error in self.onnx.errors)


def deploy(
    programs: Mapping[str, Program], args: tuple[Tensor, ...], folder: Path, rounds: int
) -> dict[str, Deployment]:
    """Export programs, and time them in turns on the same inputs, in as many threads as torch is set to.

    Args:
        programs: By name, which is also that of the ``.onnx`` file.
        args: Positional inputs of the timed calls.
        folder: Where the files go; it must exist.
        rounds: How often each is timed.

    Raises:
        ExportError: A program cannot be exported, or ONNX Runtime disagrees with torch.
    """
    exported = {name: export_onnx(program, folder / f"{name}.onnx") for name, program in programs.items()}
    calls: dict[str, Callable[[], Any]] = {}
    for name, program in programs.items():
        calls[f"torch {name}"] = _torch_call(program, args)
        calls[f"onnx {name}"] = _onnx_call(exported[name], args)
    latencies = compare_latency(calls, repeats=rounds).latencies
    return {
        name: Deployment(
            torch_milliseconds=1000 * latencies[f"torch {name}"].median_seconds,
            onnx_milliseconds=1000 * latencies[f"onnx {name}"].median_seconds,
            onnx=report,
        )
        for name, report in exported.items()
    }


def sized_row(name: str, program: Program, deployment: Deployment | None = None) -> Row:
    """Make a table's row with the sizes of a program and, where it was deployed, its times.

    Args:
        name: Name of the row.
        program: Its first input holds the batch in dimension 0.
        deployment: What `deploy` returned for it.
    """
    total = cost(program)
    return Row(
        name=name,
        parameters=int(total.parameters),
        macs=round(total.macs / len(program.args[0])),
        torch_milliseconds=deployment.torch_milliseconds if deployment else None,
        onnx_milliseconds=deployment.onnx_milliseconds if deployment else None,
    )


def timing_note(batch_size: int, rounds: int) -> str:
    """Say in one line how the times were taken.

    Args:
        batch_size: Rows of the inputs.
        rounds: How often each call was timed.
    """
    threads = torch.get_num_threads()
    return f"Times: medians of {rounds} interleaved calls, batch {batch_size}, {threads} thread{'s' * (threads > 1)}."


def _torch_call(program: Program, args: tuple[Tensor, ...]) -> Callable[[], Any]:
    module = program.module().eval()

    def call() -> Any:
        with torch.inference_mode():
            return module(*args)

    return call


def _onnx_call(report: OnnxReport, args: tuple[Tensor, ...]) -> Callable[[], Any]:
    opened = session(report.path, torch.get_num_threads())
    feeds = dict(zip(report.inputs, (value.numpy() for value in args), strict=True))
    return lambda: run_session(opened, feeds)
