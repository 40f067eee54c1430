import time
from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from graphopt.demo.caching_quality import Denoiser, QualityHarness, Uncached, trajectory
from graphopt.demo.classifier import ClassifierConfig, DigitClassifier
from graphopt.demo.diffusion import SamplingConfig, sample, signal_and_noise
from graphopt.demo.digits import LabelledImages, load_digits
from graphopt.demo.model import DiT, DiTConfig
from graphopt.demo.quality import Judge

SAMPLING = SamplingConfig(count=12, steps=4, guidance=1.5, seeds=(0, 1))


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Shade:
    """Leads every image to one shade, and takes a second of the clock for a step."""

    def __init__(self, shade: float, clock: Clock | None = None) -> None:
        self.shade, self.clock, self.calls = shade, clock, 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        if self.clock:
            self.clock.now += 1.0
        signal, sigma = (weight.view(-1, 1, 1, 1) for weight in signal_and_noise(t))
        return (signal * x - self.shade) / sigma


class EverySecond:
    """Computes every second step, from the first on, and otherwise returns what it returned before."""

    def __init__(self, model: DiT | Shade, clock: Clock | None = None) -> None:
        self.model, self.clock, self.last = model, clock, None
        self.resets: list[int] = []
        self.step = 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if self.step % 2 and self.clock:
            self.clock.now += 0.3
        self.last = self.last if self.step % 2 and self.last is not None else self.model(x, t, y)
        self.step += 1
        return self.last

    def reset(self) -> None:
        self.resets.append(self.step)
        self.step, self.last = 0, None


@pytest.fixture(scope="module")
def judge() -> Judge:
    torch.manual_seed(0)
    return Judge(DigitClassifier(ClassifierConfig(width=4, features=8)).eval(), load_digits(held_out=60).held_out)


@pytest.fixture(scope="module")
def model() -> DiT:
    torch.manual_seed(0)
    model = DiT(DiTConfig(width=8, depth=1, heads=1)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def without_seconds(harness: QualityHarness, denoiser: Denoiser, steps: int, seed: int) -> dict[str, float]:
    found = asdict(harness.evaluate(denoiser, steps, seed))
    assert found.pop("seconds_per_image") > 0
    return found


def test_the_full_run_has_no_error_and_the_scores_of_the_judge(judge: Judge, model: DiT) -> None:
    labels = torch.arange(12) % 10
    wanted = judge.score(LabelledImages(sample(model, labels, SAMPLING, 1), labels))
    assert without_seconds(QualityHarness(model, judge, SAMPLING), Uncached(model), 4, 1) == {**wanted, "error": 0.0}


def test_error_is_relative_to_the_full_run_from_the_same_noise(judge: Judge) -> None:
    harness = QualityHarness(Shade(0.8), judge, SAMPLING)
    for steps in (1, 4):
        assert harness.evaluate(Uncached(Shade(0.6)), steps, 0).error == pytest.approx(0.25, abs=1e-5)


def test_a_cache_is_reset_before_every_generation(judge: Judge, model: DiT) -> None:
    harness, cached = QualityHarness(model, judge, SAMPLING), EverySecond(model)
    first, other, again = (without_seconds(harness, cached, 4, seed) for seed in (0, 1, 0))
    assert cached.resets == [0, 4, 4]
    assert first == again
    assert first["error"] > 0
    assert first != other


def test_seconds_are_those_of_the_generation(judge: Judge, clock: Clock) -> None:
    harness = QualityHarness(Shade(0.5, clock), judge, SAMPLING)
    assert harness.evaluate(Uncached(Shade(0.5, clock)), 3, 0).seconds_per_image == 3 / 12


def test_fewer_steps_get_the_time_that_the_cache_takes(judge: Judge, clock: Clock) -> None:
    model = Shade(0.5, clock)
    contest = QualityHarness(model, judge, SAMPLING, timed_count=3, rounds=2).contest("half", EverySecond(model, clock))
    # Two steps of a second and two of 0.3 take 0.65 of four full ones, which is nearer to three steps than to two.
    assert (contest.cached.name, contest.cached.steps, contest.baseline.steps) == ("half", 4, 3)
    assert contest.cached.relative_time == pytest.approx(2.6 / 4)
    assert (contest.baseline.name, contest.baseline.relative_time) == ("fewer steps", 3 / 4)


def test_no_cache_is_too_fast_for_one_step(judge: Judge, clock: Clock) -> None:
    contest = QualityHarness(Shade(0.5, clock), judge, SAMPLING).contest("free", Uncached(Shade(0.5)))
    assert (contest.cached.relative_time, contest.baseline.steps) == (0.0, 1)


def test_entries_hold_every_seed_and_are_drawn_once(judge: Judge, model: DiT) -> None:
    harness = QualityHarness(model, judge, SAMPLING)
    found = harness.uncached(2)
    errors = [harness.evaluate(Uncached(model), 2, seed).error for seed in SAMPLING.seeds]
    assert found.values("error") == errors
    assert harness.uncached(2) is found
    assert (harness.uncached(4).name, harness.uncached(4).values("error")) == ("full", [0.0, 0.0])


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 3), (2.0, 6)])
def test_a_trajectory_is_what_the_model_was_called_with(model: DiT, guidance: float, rows: int) -> None:
    sampling = SamplingConfig(steps=4, guidance=guidance)
    calls = trajectory(model, sampling, count=3, seed=7)
    assert [tuple(call[0].shape) for call in calls] == [(rows, 1, 8, 8)] * 4
    assert [float(call[1][0]) for call in calls] == [1.0, 0.75, 0.5, 0.25]
    again = iter(calls)

    def replayed(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        wanted = next(again)
        assert all(torch.equal(*pair) for pair in zip((x, t, y), wanted, strict=True))
        return model(x, t, y)

    sample(replayed, torch.arange(3), sampling, seed=7)
    assert next(again, None) is None
