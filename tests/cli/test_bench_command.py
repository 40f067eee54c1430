import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
