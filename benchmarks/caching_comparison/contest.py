"""Several systems denoise at once: at every step each of them takes its turn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

import torch
from peers.sampling import SCALE
from peers.subjects import normal
from torch import Tensor

from caching_comparison.players import Player
from caching_comparison.subjects import Timed


@dataclass
class Record:
    """What one system did.

    Attributes:
        rounds: CPU seconds of each step, by round.
        full: which steps were full.
        outputs: the model's output at each step of the last round.
        latents: the last latents.
        held_bytes: most bytes held after any step.
    """

    rounds: list[list[float]] = field(default_factory=list)
    full: list[bool] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    latents: Tensor = field(default_factory=lambda: torch.empty(0))
    held_bytes: int = 0

    @property
    def generation_seconds(self) -> float:
        """The sum over the steps of the median over the rounds."""
        return sum(median(step) for step in zip(*self.rounds, strict=True))

    def step_seconds(self, *, full: bool) -> float | None:
        """The median over all full, or all cached, steps; the first is left out: it fills tables."""
        chosen = [step for step in range(1, len(self.full)) if self.full[step] is full]
        return median(seconds[step] for seconds in self.rounds for step in chosen) if chosen else None

    def restart(self) -> None:
        """Forget all but the times."""
        self.full, self.outputs = [], []


def compete(timed: Timed, players: Mapping[str, Player], *, steps: int, rounds: int) -> dict[str, Record]:
    """Let all of them denoise the same noise under guidance, in rounds of one generation; the first does not count.

    The time is that of the model's calls in CPU seconds of this process, which has one thread. Who comes first moves on
    from round to round.
    """
    records = {name: Record() for name in players}
    names = list(players)
    for number in range(rounds + 1):
        order = names[number % len(names) :] + names[: number % len(names)]
        _generation(timed, players, order, records, steps)
        if number == 0:
            for record in records.values():
                record.rounds.clear()
    return records


@torch.no_grad()
def _generation(
    timed: Timed, players: Mapping[str, Player], order: list[str], records: Mapping[str, Record], steps: int
) -> None:
    conditions = timed.subject.conditions(2)
    for name in order:
        players[name].start()
        records[name].restart()
        records[name].latents = normal(1, *timed.subject.latents, seed=7)
        records[name].rounds.append([])
    for step in range(steps):
        for name in order:
            player, record = players[name], records[name]
            timestep = player.scheduler.timesteps[step]
            given = torch.cat([record.latents, record.latents])
            args, kwargs = timed.subject.arguments(given, timestep, conditions)
            start = time.process_time()
            output = player.call(*args, **kwargs)[0]
            record.rounds[-1].append(time.process_time() - start)
            record.full.append(player.was_full())
            record.outputs.append(output)
            record.held_bytes = max(record.held_bytes, player.held_bytes())
            uncond, cond = output.chunk(2)
            noise = uncond + SCALE * (cond - uncond)
            record.latents = player.scheduler.step(noise, timestep, record.latents, return_dict=False)[0]
