"""The benchmark of partitioned sampling's quality: what it compares with what, and that it runs."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

import graphopt
from graphopt.demo.caching_quality import Contest, Entry, Quality
from graphopt.demo.diffusion import SamplingConfig, TrainingConfig, signal_and_noise
from graphopt.demo.digits import load_digits
from graphopt.demo.model import DiT, DiTConfig


def _part(name: str) -> ModuleType:
    return importlib.import_module(f"partition_quality_comparison.{name}")


@pytest.mark.parametrize(
    ("devices", "warm_up", "steps", "share", "time", "fewer"),
    [(2, 1, 20, 0.5, 0.525, 11), (2, 2, 20, 0.5, 0.55, 11), (4, 3, 50, 0.25, 0.295, 15), (2, 9, 4, 0.5, 1.0, 4)],
)
def test_the_baseline_has_the_time_of_warm_up_and_shared_steps(
    devices: int, warm_up: int, steps: int, share: float, time: float, fewer: int
) -> None:
    ways = _part("ways")
    way = ways.Way(name="async", devices=devices, warm_up=warm_up)
    assert way.relative_time(steps, share) == pytest.approx(time)
    assert ways.steps_in_time(way.relative_time(steps, share), steps) == fewer


def test_splits_are_as_even_as_the_modules_allow() -> None:
    model = DiT(DiTConfig(depth=5, width=16, heads=2)).eval()
    program = graphopt.capture(model, (torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 2])))
    names = [f"blocks.{index}" for index in range(5)]
    splitter = _part("splits").Splitter(program, names)
    assert sorted(map(len, splitter.contiguous(2))) == [2, 3]
    assert sorted(map(len, splitter.contiguous(3))) == [1, 2, 2]
    assert splitter.share(splitter.contiguous(5)) < 0.3 < splitter.share(splitter.contiguous(2)) < 0.65
    middle, outer = splitter.sandwich()
    assert sorted(middle + outer) == names
    assert {"blocks.0", "blocks.4"} <= set(outer)


def test_a_perfect_noise_prediction_gives_the_velocity_of_its_image() -> None:
    x, noise, t = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8), torch.tensor([0.2, 0.5, 0.9])

    class Perfect:
        def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return noise

        def reset(self) -> None:
            return None

    signal, sigma = (weight.view(-1, 1, 1, 1) for weight in signal_and_noise(t))
    found = _part("noise_prediction").FromNoise(Perfect())(signal * x + sigma * noise, t, torch.zeros(3).long())
    torch.testing.assert_close(found, signal * noise - sigma * x, rtol=1e-4, atol=1e-4)


def test_training_learns_to_predict_noise() -> None:
    torch.manual_seed(0)
    model = DiT(DiTConfig(depth=1, width=32, heads=2))
    training = TrainingConfig(steps=60, warm_up=5)
    assert _part("noise_prediction").train_to_predict_noise(model, load_digits().train, training) < 0.8


def test_the_summary_counts_seeds_and_compares_errors() -> None:
    presentation, contest = _part("presentation"), _part("contest")
    spread = _entry("async, 2 devices, w=1", 0.525, errors=(0.01, 0.04))
    fewer = _entry("fewer steps", 0.55, errors=(0.02, 0.02))
    section = contest.Section(
        model="dit",
        target="noise",
        sampling=SamplingConfig(steps=20, guidance=1.0),
        full=_entry("full", 1.0, errors=(0.0, 0.0)),
        contests=[Contest(spread, fewer)],
    )
    assert presentation.seeds_won(section.contests[0]) == 1
    assert presentation.error_ratio(section.contests[0]) == pytest.approx(1.25)
    assert "| async, 2 devices, w=1 | 1.25 | 1 of 2 |" in presentation.summary_text([section])
    assert "error % even" in presentation.section_text(section)


def test_it_runs_and_writes_what_it_found(tmp_path: Path, benchmarks: Path) -> None:
    script = importlib.import_module("partition_quality")
    options = ["--tiny", "--only", "dit", "--steps", "3", "--seeds", "0,1", "--count", "10"]
    assert script.main([*options, "--cache", str(tmp_path / "cache"), "--results", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "partition_quality.json").read_text())
    (section,) = figures["sections"]
    assert section["refused"] == {}
    assert [contest["cached"]["name"] for contest in section["contests"]] == [str(way) for way in script.TINY_WAYS]
    assert all(draw["error"] > 0 for contest in section["contests"] for draw in contest["cached"]["draws"])
    assert "dit (noise), 3 steps" in (tmp_path / "partition_quality.md").read_text()


def _entry(name: str, time: float, errors: tuple[float, ...]) -> Entry:
    draws = tuple(Quality(accuracy=1.0, frechet=5.0, error=error, seconds_per_image=1.0) for error in errors)
    return Entry(name=name, steps=round(20 * time), relative_time=time, draws=draws)
