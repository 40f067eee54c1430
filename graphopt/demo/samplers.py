"""Samplers as they would be deployed: exported, and timed over whole generations in torch and in ONNX Runtime."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from graphopt.cost import cost
from graphopt.demo.caching_quality import Denoiser, Inputs, Uncached
from graphopt.exporters.onnx import OnnxReport, export_onnx
from graphopt.exporters.runtime import run_session, session
from graphopt.measure import compare_latency
from graphopt.pass_manager import Result
from graphopt.program import Program
from graphopt.runtime.onnx_denoiser import OnnxCachedDenoiser
from graphopt.runtime.session import CacheSession
from graphopt.schedule import PROBE


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampler:
    """One model with its schedule, exported and timed.

    Attributes:
        torch: What samples in torch.
        onnx: What samples in ONNX Runtime.
        path: The ``.onnx`` file, or the folder that holds one for each program of the schedule.
        torch_seconds: Median time of a generation in torch.
        onnx_seconds: Median time of a generation in ONNX Runtime.
        error: Largest difference of the two at any step, relative to torch's largest magnitude there.
    """

    torch: Denoiser
    onnx: Denoiser
    path: Path
    torch_seconds: float
    onnx_seconds: float
    error: float


class OnnxDenoiser:
    """An exported model without a schedule, which computes every step.

    Args:
        report: What the exporter wrote.
        threads: Threads that one operator may use.
    """

    def __init__(self, report: OnnxReport, threads: int) -> None:
        self._opened = session(report.path, threads)
        self._inputs = report.inputs

    def __call__(self, x: Tensor, t: Tensor, y: Tensor, /) -> Tensor:
        """Predict the velocity; shapes as those of the demo's diffusion models."""
        return torch.from_numpy(run_session(self._opened, dict(zip(self._inputs, (x, t, y), strict=True)))[0])

    def reset(self) -> None:
        """Do nothing: there is no state."""


def deploy_samplers(
    subjects: Mapping[str, Program | Result], calls: Sequence[Inputs], folder: Path, rounds: int
) -> dict[str, Sampler]:
    """Export models, and time their generations in turns, in as many threads as torch is set to.

    Args:
        subjects: Programs, or results with a schedule, by name, which is also that of the file or folder.
        calls: Inputs at the steps of one generation, the same for all.
        folder: Where the files go; it must exist.
        rounds: How often a generation of each is timed.

    Raises:
        ExportError: A program cannot be exported, or ONNX Runtime disagrees with torch.
    """
    reports = {name: export_onnx(subject, _place(folder, name, subject)) for name, subject in subjects.items()}
    torches = {name: torch_denoiser(subject) for name, subject in subjects.items()}
    onnxes = {name: _onnx_denoiser(subject, reports[name]) for name, subject in subjects.items()}
    players: dict[str, Callable[[], object]] = {}
    for name in subjects:
        players[f"torch {name}"] = _player(torches[name], calls)
        players[f"onnx {name}"] = _player(onnxes[name], calls)
    latencies = compare_latency(players, repeats=rounds, warm_up=1).latencies
    return {
        name: Sampler(
            torch=torches[name],
            onnx=onnxes[name],
            path=report.path,
            torch_seconds=latencies[f"torch {name}"].median_seconds,
            onnx_seconds=latencies[f"onnx {name}"].median_seconds,
            error=_largest_error(play(onnxes[name], calls), play(torches[name], calls)),
        )
        for name, report in reports.items()
    }


def torch_denoiser(subject: Program | Result) -> Denoiser:
    """Return what samples in torch: a session where there is a schedule, the model itself otherwise.

    Args:
        subject: A program, or a result with a schedule.
    """
    return Uncached(subject.module().eval()) if isinstance(subject, Program) else CacheSession(subject)


@torch.no_grad()
def play(denoiser: Denoiser, calls: Sequence[Inputs]) -> list[Tensor]:
    """Return what a denoiser gives at every step of one generation.

    Args:
        denoiser: It is reset before.
        calls: Inputs at the steps.
    """
    denoiser.reset()
    return [denoiser(*inputs) for inputs in calls]


def generation_macs(subject: Program | Result, calls: Sequence[Inputs]) -> int:
    """Return the multiply-accumulates of a generation for each row of its batch.

    Args:
        subject: A program, or a result with a schedule.
        calls: Inputs at the steps.
    """
    if isinstance(subject, Program):
        return len(calls) * _row_macs(subject)
    playing = CacheSession(subject)
    play(playing, calls)
    macs = {name: _row_macs(program) for name, program in subject.programs.items()}
    probed = sum(macs[PROBE] for decision in playing.decisions if decision.distance is not None)
    return probed + sum(macs[decision.program] for decision in playing.decisions)


def _place(folder: Path, name: str, subject: Program | Result) -> Path:
    return folder / (f"{name}.onnx" if isinstance(subject, Program) else name)


def _onnx_denoiser(subject: Program | Result, report: OnnxReport) -> Denoiser:
    threads = torch.get_num_threads()
    if isinstance(subject, Program):
        return OnnxDenoiser(report, threads)
    return OnnxCachedDenoiser(report.path, threads=threads)


def _player(denoiser: Denoiser, calls: Sequence[Inputs]) -> Callable[[], object]:
    return lambda: play(denoiser, calls)


def _largest_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    pairs = zip(found, wanted, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def _row_macs(program: Program) -> int:
    """Return the multiply-accumulates of a call for each row; its first input holds the batch in dimension 0."""
    return round(cost(program).macs / len(program.args[0]))
