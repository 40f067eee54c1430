"""One denoiser in one dtype: everyone's time and error."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from end_to_end_comparison.generation import Plan, generate, seconds_of
from end_to_end_comparison.players import Player

WARM_UPS = 2
"""Generations before the first that counts: one compiles and runs once, one records CUDA graphs."""


@dataclass(frozen=True)
class Row:
    """What one system did.

    Attributes:
        model: the denoiser.
        dtype: its type.
        system: the system.
        step_ms: milliseconds a step, over a whole generation.
        speed_up: over the denoiser in eager mode.
        over_compiled: over the denoiser compiled.
        error: difference of the last latents from those of the same programs in eager mode, over their norm.
        programs: how often each program ran in a generation.
        warm_up_seconds: of the generations before the first that counts, compilation included.
        claimed: speed-up that the method's authors claim.
        notes: what the fusing pass did.
    """

    model: str
    dtype: str
    system: str
    step_ms: float
    speed_up: float
    over_compiled: float
    error: float
    programs: str
    warm_up_seconds: float
    claimed: str
    notes: tuple[str, ...]


def compete(model: str, dtype: str, taking_part: Sequence[Player], plan: Plan, rounds: int) -> list[Row]:
    """Warm everyone up, compare what came out, and take their times.

    The first two are the denoiser in eager mode and compiled.
    """
    latents: dict[str, Tensor] = {}
    warm_ups: dict[str, float] = {}
    for player in taking_part:
        start = time.perf_counter()
        for _ in range(WARM_UPS):
            player.start()
            latents[player.name] = generate(player.call, plan).clone()
        warm_ups[player.name] = time.perf_counter() - start
        print(f"  {player.name}: warm after {warm_ups[player.name]:.0f} s", flush=True)
    calls = {player.name: player.call for player in taking_part}
    seconds = seconds_of(calls, {player.name: player.start for player in taking_part}, plan, rounds)
    eager, compiled = (seconds[player.name] for player in taking_part[:2])
    return [
        Row(
            model,
            dtype,
            player.name,
            1e3 * seconds[player.name] / len(plan.timesteps),
            eager / seconds[player.name],
            compiled / seconds[player.name],
            _error(latents[player.name], latents[player.like]),
            ", ".join(f"{count} {name}" for name, count in Counter(player.decisions()).items()),
            warm_ups[player.name],
            player.claimed,
            player.notes,
        )
        for player in taking_part
    ]


def _error(found: Tensor, wanted: Tensor) -> float:
    difference = torch.linalg.vector_norm(found.double() - wanted.double())
    return float(difference / torch.linalg.vector_norm(wanted.double()))
