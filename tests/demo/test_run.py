import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from graphopt.demo.classifier import ClassifierConfig
from graphopt.demo.diffusion import SamplingConfig, TrainingConfig
from graphopt.demo.model import DiTConfig
from graphopt.demo.report import DemoReport, Row
from graphopt.demo.run import run_dit
from graphopt.demo.settings import DitDemo

pytestmark = pytest.mark.slow

SMALL = DitDemo(
    model=DiTConfig(width=48, depth=3, heads=4),
    training=TrainingConfig(steps=500, learning_rate=3e-3),
    classifier=ClassifierConfig(width=16, features=32, epochs=10, learning_rate=3e-3),
    recovery=TrainingConfig(steps=150, learning_rate=1e-3, warm_up=5, average=0.95, seed=1),
    sampling=SamplingConfig(count=100, steps=15, guidance=1.5, seeds=(0, 1)),
    calibration_batches=8,
    timed_count=32,
    rounds=3,
    threads=1,
)

PRUNED = ["pruned (taylor)", "pruned (random)"]
SAMPLED = ["original", *PRUNED, "layers dropped", "cached", "all together"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def report(folder: Path) -> DemoReport:
    return run_dit(folder / "cache", folder / "out", SMALL)


@pytest.fixture(scope="module")
def rows(report: DemoReport) -> dict[str, Row]:
    return {row.name: row for row in report.rows}


def steps_of(name: str) -> int:
    return int(name.removeprefix("original, ").removesuffix(" steps"))


def test_a_row_each_and_fewer_steps_beside_the_cached(report: DemoReport) -> None:
    names = [row.name for row in report.rows]
    assert [name for name in names if not name.startswith("original, ")] == [*SAMPLED, "real digits"]
    fewer = [names[names.index(cached) + 1] for cached in ("cached", "all together")]
    assert all(steps_of(name) >= 1 for name in fewer)


def test_sizes(rows: dict[str, Row]) -> None:
    whole = rows["original"]
    assert whole.macs is not None
    shares = {name: row.macs / whole.macs for name, row in rows.items() if row.macs is not None}
    assert all(0.4 < shares[name] <= 0.5 for name in PRUNED)
    assert shares["layers dropped"] == pytest.approx(2 / 3, abs=0.05)
    # Steps 0, 1, 2, 4, 7, 10 and 13 of 15 are full, and the others cost next to nothing.
    assert 7 / 15 < shares["cached"] < 7 / 15 + 0.05
    assert rows["cached"].parameters == whole.parameters
    assert shares["all together"] == pytest.approx(shares["layers dropped"] * 0.5 * shares["cached"], rel=0.2)
    fewer = next(name for name in rows if name.startswith("original, "))
    assert shares[fewer] == pytest.approx(steps_of(fewer) / 15)


def test_everything_shown_is_timed_in_both_runtimes(rows: dict[str, Row]) -> None:
    times = {name: (rows[name].torch_milliseconds, rows[name].onnx_milliseconds) for name in SAMPLED}
    assert times.pop("pruned (random)") == (None, None)
    assert all(seconds is not None and seconds > 0 for pair in times.values() for seconds in pair)
    fewer = next(row for name, row in rows.items() if name.startswith("original, "))
    whole = rows["original"].torch_milliseconds or 0.0
    assert fewer.torch_milliseconds == pytest.approx(whole * steps_of(fewer.name) / 15)


def test_trained_model_draws_digits_and_so_do_the_others(rows: dict[str, Row]) -> None:
    accuracy = {name: rows[name].quality["accuracy"].mean for name in SAMPLED}
    assert accuracy.pop("all together") >= 0.8
    assert all(found >= 0.9 for name, found in accuracy.items() if name != "pruned (random)")


def test_recovery_recovers(rows: dict[str, Row]) -> None:
    whole = rows["original"].quality["loss"].mean
    for name in (*PRUNED, "layers dropped", "all together"):
        quality = rows[name].quality
        assert whole < quality["loss"].mean < quality["cut"].mean
    assert "loss" not in rows["cached"].quality


def test_gradients_beat_chance(report: DemoReport, rows: dict[str, Row]) -> None:
    first, second = (rows[name].quality for name in PRUNED)
    assert first["cut"].mean < second["cut"].mean
    assert first["loss"].mean < second["loss"].mean
    assert report.findings["pruned (taylor) against pruned (random)"]["loss"] == "better"


def test_errors_and_verdicts_are_against_the_original(report: DemoReport, rows: dict[str, Row]) -> None:
    errors = {name: rows[name].quality["error"].mean for name in SAMPLED}
    assert errors["original"] == 0
    assert 0 < errors["cached"] < errors["layers dropped"]
    fewer = [name for name in rows if name.startswith("original, ")]
    assert f"cached against the {fewer[0].replace(',', ' in')}" in report.findings
    assert set(report.findings["cached against the original"]) == {"right %", "Fréchet"}


def test_files(report: DemoReport, folder: Path) -> None:
    out = folder / "out" / "dit"
    assert sorted(path.name for path in out.iterdir()) == [
        "cached",
        "layers.onnx",
        "original.onnx",
        "pruned.onnx",
        "report.json",
        "samples.png",
        "together",
    ]
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(report.to_dict()))
    assert np.asarray(Image.open(out / "samples.png")).ndim == 2
    for name in ("original", "pruned", "layers"):
        model = onnx.load(report.files[name])
        assert [value.name for value in model.graph.input] == ["x", "t", "y"]
    for name in ("cached", "together"):
        names = {path.name for path in report.files[name].iterdir()}
        assert {"full.onnx", "refresh.onnx", "cached.onnx", "schedule.json"} < names


def test_second_run_takes_the_weights_from_the_cache_and_replaces_the_files(report: DemoReport, folder: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()}
    again = run_dit(folder / "cache", folder / "out", SMALL)
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()} == kept
    wanted = {row.name: row.quality for row in report.rows if row.name in SAMPLED}
    assert {row.name: row.quality for row in again.rows if row.name in SAMPLED} == wanted
