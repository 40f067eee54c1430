"""How good cached sampling is, beside sampling with fewer steps in the same time and from the same noise."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from graphopt.demo.diffusion import SamplingConfig, Velocity, sample
from graphopt.demo.digits import CLASSES, LabelledImages
from graphopt.demo.quality import Judge
from graphopt.demo.report import Figure

Inputs = tuple[Tensor, Tensor, Tensor]

FIGURES = {
    "accuracy": Figure("right %", "{:.1f}", scale=100.0),
    "frechet": Figure("Fréchet", "{:.1f}", lower_is_better=True),
    "error": Figure("error %", "{:.2f}", scale=100.0, lower_is_better=True),
}
"""What is compared, by the names in `Quality`."""


class Denoiser(Protocol):
    """What samples: called once a step in order, with a state that `reset` clears before each generation."""

    def __call__(self, x: Tensor, t: Tensor, y: Tensor, /) -> Tensor:
        """Predict the velocity at the next step; shapes as those of the demo's diffusion models."""

    def reset(self) -> object:
        """Forget all that earlier steps left."""


class Uncached:
    """A model as a denoiser: every step is computed.

    Args:
        model: Called as ``model(x_t, t, y)``.
    """

    def __init__(self, model: Velocity) -> None:
        self._model = model

    def __call__(self, x: Tensor, t: Tensor, y: Tensor, /) -> Tensor:
        """Call the model."""
        return self._model(x, t, y)

    def reset(self) -> None:
        """Do nothing: there is no state."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What one draw was worth.

    Attributes:
        accuracy: Share of the samples that the judge takes for the digit they should show, from 0 to 1.
        frechet: Fréchet distance of the samples to held-out digits.
        error: ‖samples - wanted‖ / ‖wanted‖, where those wanted are of the full run from the same noise.
        seconds_per_image: Seconds of the generation over the number of samples.
    """

    accuracy: float
    frechet: float
    error: float
    seconds_per_image: float


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One way to sample, over all seeds.

    Attributes:
        name: What it is.
        steps: Denoising steps.
        relative_time: Seconds of the model in a generation, over those of the full run.
        draws: What it was worth under each seed.
    """

    name: str
    steps: int
    relative_time: float
    draws: tuple[Quality, ...]

    def values(self, name: str) -> list[float]:
        """Return a figure of `Quality` under each seed.

        Args:
            name: Name of the figure.
        """
        return [getattr(draw, name) for draw in self.draws]


@dataclass(frozen=True)
class Contest:
    """A cached sampler and what takes as long without a cache.

    Attributes:
        cached: The cached sampler.
        baseline: The full model with the number of steps that comes closest in time.
    """

    cached: Entry
    baseline: Entry


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Images of one generation, and the seconds that it took."""

    images: Tensor
    seconds: float


class QualityHarness:
    """Measures samplers of one model against its full run.

    Args:
        model: The full model.
        judge: Scores the samples.
        sampling: Count, guidance, seeds, and the steps of the full run.
        timed_count: Images in the generations that are timed.
        rounds: How often each of their steps is timed.
    """

    def __init__(
        self, model: Velocity, judge: Judge, sampling: SamplingConfig, timed_count: int = 100, rounds: int = 5
    ) -> None:
        self._full = Uncached(model)
        self._judge = judge
        self._sampling = sampling
        self._timed_count = timed_count
        self._rounds = rounds
        self._wanted: dict[int, _Drawn] = {}
        self._fewer: dict[int, Entry] = {}

    def evaluate(self, denoiser: Denoiser, steps: int, seed: int) -> Quality:
        """Draw once and score.

        Args:
            denoiser: What samples.
            steps: Denoising steps.
            seed: Seeds the noise that is started from.
        """
        labels = _labels(self._sampling.count)
        full = self._full_run(seed)
        is_full = denoiser is self._full and steps == self._sampling.steps
        drawn = full if is_full else self._draw(denoiser, steps, seed)
        error = float((drawn.images - full.images).norm() / full.images.norm())
        score = self._judge.score(LabelledImages(drawn.images, labels))
        return Quality(**score, error=error, seconds_per_image=drawn.seconds / len(labels))

    def uncached(self, steps: int) -> Entry:
        """Score the full model with a number of steps; each number is drawn once, however often it is asked for.

        Args:
            steps: Denoising steps; its time counts as proportional to them.
        """
        if steps not in self._fewer:
            whole = self._sampling.steps
            name = "full" if steps == whole else "fewer steps"
            self._fewer[steps] = self.entry(name, self._full, steps, steps / whole)
        return self._fewer[steps]

    def contest(self, name: str, denoiser: Denoiser) -> Contest:
        """Score a cached sampler, and the full model with as many steps as fit into its time, rounded to the nearest.

        Args:
            name: What the cached sampler is called.
            denoiser: It takes as many steps as the full run.
        """
        share = self.relative_time(denoiser)
        whole = self._sampling.steps
        cached = self.entry(name, denoiser, whole, share)
        return Contest(cached, self.uncached(max(1, round(share * whole))))

    def entry(self, name: str, denoiser: Denoiser, steps: int, relative_time: float) -> Entry:
        """Score a sampler under every seed.

        Args:
            name: What it is called.
            denoiser: What samples.
            steps: Denoising steps.
            relative_time: Seconds of a generation over those of the full run, where they were measured.
        """
        draws = tuple(self.evaluate(denoiser, steps, seed) for seed in self._sampling.seeds)
        return Entry(name=name, steps=steps, relative_time=relative_time, draws=draws)

    def relative_time(self, denoiser: Denoiser) -> float:
        """Return the model seconds of a cached generation over those of a full one.

        Both are called in turn at every step, on what the cached sampler meets there; the medians over the rounds are
        added up over the steps.

        Args:
            denoiser: The cached sampler.
        """
        sampling, seed = self._sampling, self._sampling.seeds[0]
        denoiser.reset()
        calls = trajectory(denoiser, sampling, self._timed_count, seed)
        rounds = [self._seconds(denoiser, calls) for _ in range(self._rounds)]
        cached, full = torch.tensor(rounds, dtype=torch.float64).median(dim=0).values.sum(dim=0).tolist()
        return float(cached / full)

    @torch.no_grad()
    def _seconds(self, denoiser: Denoiser, calls: Iterable[Inputs]) -> list[tuple[float, float]]:
        """Return the seconds of the cached and the full model at every step."""
        denoiser.reset()
        return [(_call_seconds(denoiser, inputs), _call_seconds(self._full, inputs)) for inputs in calls]

    def _full_run(self, seed: int) -> _Drawn:
        if seed not in self._wanted:
            self._wanted[seed] = self._draw(self._full, self._sampling.steps, seed)
        return self._wanted[seed]

    def _draw(self, denoiser: Denoiser, steps: int, seed: int) -> _Drawn:
        denoiser.reset()
        start = time.perf_counter()
        images = sample(denoiser, _labels(self._sampling.count), replace(self._sampling, steps=steps), seed)
        return _Drawn(images, time.perf_counter() - start)


def trajectory(model: Velocity, sampling: SamplingConfig, count: int, seed: int) -> tuple[Inputs, ...]:
    """Return what a model is called with at every step of a full run: what a cache is calibrated on.

    Args:
        model: Called as ``model(x_t, t, y)``.
        sampling: Steps and guidance.
        count: Images that are drawn; under guidance a call has twice as many rows.
        seed: Seeds the noise; take one that no quality is judged with.
    """
    calls: list[Inputs] = []

    def watched(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        calls.append((x.clone(), t.clone(), y.clone()))
        return model(x, t, y)

    sample(watched, _labels(count), sampling, seed)
    return tuple(calls)


def _labels(count: int) -> Tensor:
    return torch.arange(count) % CLASSES


def _call_seconds(denoiser: Denoiser, inputs: Inputs) -> float:
    start = time.perf_counter()
    denoiser(*inputs)
    return time.perf_counter() - start
