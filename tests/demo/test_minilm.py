from pathlib import Path

import pytest

from graphopt.demo.distillation import DistillationConfig
from graphopt.demo.minilm import run_minilm
from graphopt.demo.minilm_settings import Choice, MiniLmDemo
from graphopt.demo.report import DemoReport

SMALL = MiniLmDemo(
    shown=(Choice(0.75, "taylor"),),
    length=16,
    train=128,
    held_out=64,
    calibration_batches=2,
    recovery=DistillationConfig(steps=6, batch_size=16),
    batch_size=4,
    rounds=3,
    threads=1,
)


def test_a_choice_names_itself() -> None:
    assert str(Choice(0.75, "taylor")) == "taylor 75%"
    wanted = "prune-channels{macs=0.5,importance=random,scope=isomorphic,round_to=8}"
    assert SMALL.pipeline(Choice(0.5, "random")) == wanted


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("minilm")


@pytest.fixture(scope="module")
def report(out: Path) -> DemoReport:
    return run_minilm(out, SMALL)


@pytest.mark.slow
def test_original_is_its_own_measure(report: DemoReport) -> None:
    quality = report.rows[0].quality
    assert quality["cosine"].mean == pytest.approx(1.0, abs=1e-6)
    assert quality["correlation"].mean == pytest.approx(1.0, abs=1e-6)
    assert report.rows[0].parameters == 22_565_376


@pytest.mark.slow
def test_gradients_beat_chance_and_recovery_helps(report: DemoReport) -> None:
    quality = {row.name: row.quality["cosine"].mean for row in report.rows}
    assert list(quality) == [
        "original",
        "taylor 75%, pruned",
        "taylor 75%, recovered",
        "random 75%, pruned",
        "random 75%, recovered",
    ]
    assert quality["taylor 75%, pruned"] > quality["random 75%, pruned"]
    assert quality["taylor 75%, recovered"] > max(quality["taylor 75%, pruned"], quality["random 75%, recovered"])


@pytest.mark.slow
def test_files(report: DemoReport, out: Path) -> None:
    assert sorted(path.name for path in (out / "minilm").iterdir()) == [
        "original.onnx",
        "report.json",
        "taylor-75.onnx",
    ]
    assert report.files["taylor-75"].stat().st_size < report.files["original"].stat().st_size
