import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphopt.cli import main

Run = Callable[..., Any]


def test_torch_alone(run: Run, saved: Path) -> None:
    outcome = run("bench", str(saved), "--repeats", "2", "--threads", "1", "--no-onnx", "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, document["model"], document["threads"], document["repeats"]) == (0, "Net", 1, 2)
    assert [(document[name]["parameters"], document[name]["macs"]) for name in ("before", "after")] == [
        (420, 768),
        (212, 384),
    ]
    assert document["before"]["onnx_seconds"] is None
    assert document["ratios"]["torch_seconds"] == pytest.approx(
        document["after"]["torch_seconds"] / document["before"]["torch_seconds"]
    )


def test_both_runtimes(run: Run, saved: Path) -> None:
    pytest.importorskip("onnxruntime")
    outcome = run("bench", str(saved), "--repeats", "2", "--threads", "1")
    rows = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert (outcome.code, outcome.err) == (0, "")
    assert "parameters 420 212 50.5%" in rows
    assert "MACs 768 384 50.0%" in rows
    assert [row.split()[0] for row in rows if " ms " in row] == ["torch", "ONNX"]
    assert "2 interleaved rounds, medians, 1 thread, torch on cpu" in outcome.out
    assert not (saved / "model.onnx").exists()


def test_without_onnx_runtime_it_says_so(run: Run, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == "onnxruntime" else find(name, package)
    )
    outcome = run("bench", str(saved), "--repeats", "2")
    assert outcome.code == 0
    assert (
        "note: ONNX Runtime was not measured: its packages are not installed; pip install 'graphopt[onnx]'"
        in outcome.out
    )


CACHED_MODEL = """
import torch

from graphopt.demo.model import DiT, DiTConfig


def build():
    torch.manual_seed(0)
    model = DiT(DiTConfig(width=8, depth=2, heads=2)).eval()
    return model, (torch.randn(2, 1, 8, 8), torch.rand(2), torch.ones(2).long())
"""


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a result with a schedule that the command line has saved."""
    folder = tmp_path_factory.mktemp("cached")
    (folder / "net_cached.py").write_text(CACHED_MODEL, encoding="utf-8")
    target, out = f"{folder / 'net_cached.py'}:build", str(folder / "out")
    assert main(["optimize", target, "--passes", "taylorseer{interval=4,order=0,layers=all}", "--out", out]) == 0
    return folder / "out"


def test_a_result_with_a_schedule(run: Run, cached: Path) -> None:
    outcome = run("bench", str(cached), "--repeats", "2", "--threads", "1", "--steps", "7", "--no-onnx", "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, document["model"], document["steps"]) == (0, "DiT", 7)
    assert document["runs"] == {"full": 4, "cached": 3}
    macs = {name: figures["macs"] for name, figures in document["programs"].items()}
    assert document["original"]["macs"] == macs["full"] > 5 * macs["cached"]
    assert document["ratios"]["macs"] == pytest.approx((4 * macs["full"] + 3 * macs["cached"]) / (7 * macs["full"]))
    assert document["original"]["onnx_seconds"] is None


def test_a_schedule_as_a_table(run: Run, cached: Path) -> None:
    outcome = run("bench", str(cached), "--repeats", "2", "--no-onnx")
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert "program runs parameters MACs torch ONNX Runtime" in lines
    # Steps 0, 1, 2, 4, 8, 12 and 16 of 20.
    assert [line.split()[:2] for line in lines if line.startswith(("full ", "cached "))] == [
        ["full", "7"],
        ["cached", "13"],
    ]
    assert any(line.startswith("a generation of 20 steps, torch: ") for line in lines)
    assert "rewrote nothing" not in outcome.out


def test_steps_need_a_schedule(run: Run, saved: Path) -> None:
    outcome = run("bench", str(saved), "--steps", "7", "--no-onnx")
    assert outcome.code == 1
    assert "--steps counts the steps of a generation, and the result has no schedule; leave it out" in outcome.err
