"""A generation of one picture under guidance, and its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from end_to_end_comparison.subjects import BRANCHES, Subject

SCALE = 3.0
"""Of classifier-free guidance (Ho and Salimans, arXiv 2207.12598)."""
TRAINED = 1000
"""Steps of the noise schedule that the timesteps are taken from."""


@dataclass(frozen=True)
class Plan:
    """What every generation is made of: deterministic DDIM with v-prediction, its coefficients worked out beforehand.

    Song et al., Denoising Diffusion Implicit Models, ICLR 2021, arXiv 2010.02502; Salimans and Ho, Progressive
    Distillation, ICLR 2022, arXiv 2202.00512, whose appendix writes a step of it as a turn by an angle.

    Attributes:
        latents: the noise it starts from, (1, 4, side, side).
        timesteps: what the denoiser is given at each step.
        numbers: the same as numbers.
        conditions: its other inputs.
        weights: of the latents and of the prediction in each step's sum.
    """

    latents: Tensor
    timesteps: Sequence[Tensor]
    numbers: tuple[int, ...]
    conditions: tuple[Tensor, ...]
    weights: Sequence[tuple[float, float]]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the denoiser is called with at the first step."""
        return (torch.cat([self.latents] * BRANCHES), self.timesteps[0], *self.conditions)


def plan_of(subject: Subject, device: str, dtype: torch.dtype, steps: int) -> Plan:
    """Make the plan of so many steps, the same for the same dtype."""
    torch.manual_seed(1)
    numbers = tuple(TRAINED // steps * (steps - 1 - step) + 1 for step in range(steps))
    angles = [*map(_angle, numbers), 0.0]
    turns = [before - after for before, after in pairwise(angles)]
    with torch.device(device):
        latents = torch.randn(1, 4, subject.side, subject.side).to(dtype)
        # A tensor for each, not views of one: compiled code asks how its inputs are aligned.
        timesteps = [subject.timestep(number) for number in numbers]
        conditions = subject.conditions(dtype)
    return Plan(latents, timesteps, numbers, conditions, [(math.cos(turn), -math.sin(turn)) for turn in turns])


def _angle(timestep: int) -> float:
    """The share of noise at a timestep as an angle: 0 is a picture, a right angle is noise. Betas are scaled-linear."""
    first, last = math.sqrt(0.00085), math.sqrt(0.012)
    betas = ((first + (last - first) * step / (TRAINED - 1)) ** 2 for step in range(timestep + 1))
    return math.acos(math.sqrt(math.prod(1 - beta for beta in betas)))


@torch.no_grad()
def generate(call: Callable[..., Any], plan: Plan) -> Tensor:
    """Denoise; returns the last latents."""
    latents = plan.latents
    for timestep, (kept, added) in zip(plan.timesteps, plan.weights, strict=True):
        torch.compiler.cudagraph_mark_step_begin()  # memory of the last step's outputs may be used again
        predicted = call(torch.cat([latents] * BRANCHES), timestep, *plan.conditions)
        uncond, cond = predicted[:, :4].chunk(2)
        latents = kept * latents + added * torch.lerp(uncond, cond, SCALE)
    return latents


def seconds_of(
    calls: Mapping[str, Callable[..., Any]], starts: Mapping[str, Callable[[], None]], plan: Plan, rounds: int
) -> dict[str, float]:
    """Return the median over the rounds of the seconds of a generation, by name.

    All take turns, and who comes first moves on from round to round. Everything is warm: see `generate`.
    """
    names = list(calls)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            starts[name]()
            _wait(plan)
            start = time.perf_counter()
            generate(calls[name], plan)
            _wait(plan)
            found[name].append(time.perf_counter() - start)
    return {name: median(times) for name, times in found.items()}


def _wait(plan: Plan) -> None:
    if plan.latents.is_cuda:
        torch.cuda.synchronize()
