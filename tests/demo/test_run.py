import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from graphopt.demo.classifier import ClassifierConfig
from graphopt.demo.diffusion import SamplingConfig, TrainingConfig
from graphopt.demo.model import DiTConfig
from graphopt.demo.report import DemoReport
from graphopt.demo.run import run_dit
from graphopt.demo.settings import DitDemo

pytestmark = pytest.mark.slow

SMALL = DitDemo(
    model=DiTConfig(width=48, depth=2, heads=4),
    training=TrainingConfig(steps=500, learning_rate=3e-3),
    classifier=ClassifierConfig(width=16, features=32, epochs=10, learning_rate=3e-3),
    recovery=TrainingConfig(steps=60, learning_rate=1e-3, warm_up=5, average=0.95, seed=1),
    sampling=SamplingConfig(count=100, steps=15, guidance=1.5, seeds=(0, 1)),
    calibration_batches=8,
    batch_size=8,
    rounds=3,
    threads=1,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def report(folder: Path) -> DemoReport:
    return run_dit(folder / "cache", folder / "out", SMALL)


def test_rows_and_budget(report: DemoReport) -> None:
    names = ["original", "taylor, pruned", "taylor, recovered", "random, pruned", "random, recovered", "real digits"]
    assert [row.name for row in report.rows] == names
    whole = report.rows[0].macs
    shares = [row.macs / whole for row in report.rows[1:5] if row.macs is not None and whole is not None]
    assert len(shares) == 4
    assert all(0.4 < share <= 0.5 for share in shares)


def test_trained_model_draws_digits_and_so_does_the_recovered_one(report: DemoReport) -> None:
    original, pruned, recovered, *_ = (row.quality["accuracy"].mean for row in report.rows)
    assert original >= 0.9
    assert recovered >= 0.9
    assert pruned < recovered


def test_gradients_beat_chance(report: DemoReport) -> None:
    quality = {row.name: row.quality for row in report.rows}
    for stage in ("pruned", "recovered"):
        assert quality[f"taylor, {stage}"]["loss"].mean < quality[f"random, {stage}"]["loss"].mean
        assert report.findings[f"taylor against random, {stage}"]["loss"] == "better"


def test_files(report: DemoReport, folder: Path) -> None:
    out = folder / "out" / "dit"
    assert sorted(path.name for path in out.iterdir()) == [
        "original.onnx",
        "pruned.onnx",
        "report.json",
        "samples.png",
    ]
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(report.to_dict()))
    assert np.asarray(Image.open(out / "samples.png")).ndim == 2
    for name in ("original", "pruned"):
        model = onnx.load(report.files[name])
        assert [value.name for value in model.graph.input] == ["x", "t", "y"]


def test_second_run_takes_the_weights_from_the_cache(report: DemoReport, folder: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()}
    again = run_dit(folder / "cache", folder / "again", SMALL)
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()} == kept
    assert [row.quality for row in again.rows] == [row.quality for row in report.rows]
