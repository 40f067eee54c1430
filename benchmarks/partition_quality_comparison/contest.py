"""Every way to spread a model over devices, beside one device with fewer steps in the same time."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

import graphopt
from graphopt.demo.caching_quality import Contest, Denoiser, Entry, QualityHarness, Uncached, trajectory
from graphopt.demo.diffusion import SamplingConfig
from graphopt.demo.progress import shown
from graphopt.demo.quality import Judge
from graphopt.errors import GraphoptError
from partition_quality_comparison.layouts import LAYOUTS, Subject
from partition_quality_comparison.noise_prediction import LAST_TIME, FromNoise
from partition_quality_comparison.subjects import modules
from partition_quality_comparison.ways import Way, steps_in_time

_PROBE_SEED, _PROBE_COUNT = 1_000, 2


@dataclass(frozen=True, kw_only=True)
class Section:
    """One model with one number of steps.

    Attributes:
        model: Its name.
        target: What it predicts.
        sampling: How it is sampled in the full run.
        full: The full run.
        contests: Every way with its baseline.
        sent_bytes: Bytes of all messages of a step for one image after the warm-up, by the name of the way; those that
            the runtime sends.
        refused: Why a way could not be taken, by its name.
    """

    model: str
    target: str
    sampling: SamplingConfig
    full: Entry
    contests: list[Contest] = field(default_factory=list)
    sent_bytes: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def compete(
    name: str, target: str, model: nn.Module, judge: Judge, sampling: SamplingConfig, ways: Iterable[Way]
) -> Section:
    """Score a model on one device and spread in every way.

    Args:
        name: What the model is called.
        target: What it predicts: ``noise`` or ``velocity``.
        model: The model.
        judge: Scores the samples.
        sampling: Count, guidance, seeds, and the steps of the full run.
        ways: How it is spread.
    """
    wrap = FromNoise if target == "noise" else _itself
    probe = trajectory(wrap(Uncached(model)), sampling, _PROBE_COUNT, _PROBE_SEED)[0]
    program = graphopt.capture(model, probe)
    harness = QualityHarness(wrap(Uncached(program.module().eval())), judge, sampling)
    section = Section(model=name, target=target, sampling=sampling, full=harness.uncached(sampling.steps))
    subject = Subject(model, program, modules(model), _times(target, sampling.steps))
    for way in shown(list(ways), f"{name}, {sampling.steps} steps"):
        try:
            layout = LAYOUTS[way.name](subject, way)
        except GraphoptError as error:
            section.refused[str(way)] = str(error).splitlines()[0]
            continue
        relative = way.relative_time(sampling.steps, layout.share)
        spread = harness.entry(str(way), wrap(layout.denoiser), sampling.steps, relative)
        fewer = harness.uncached(steps_in_time(relative, sampling.steps))
        section.contests.append(Contest(spread, fewer))
        if layout.sent_bytes is not None:
            section.sent_bytes[str(way)] = layout.sent_bytes
    return section


def _times(target: str, steps: int) -> list[float]:
    """Times that a model is asked at, step by step."""
    times = torch.linspace(1.0, 0.0, steps + 1)[:-1]
    return times.clamp(max=LAST_TIME if target == "noise" else 1.0).tolist()


def _itself(denoiser: Denoiser) -> Denoiser:
    return denoiser
