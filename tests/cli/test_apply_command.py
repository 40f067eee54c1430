import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graphopt.plan import Plan

Run = Callable[..., Any]


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    """Return weights of another model of the same class, under a prefix."""
    shapes = {"up.weight": (32, 8), "up.bias": (32,), "down.weight": (4, 32), "down.bias": (4,)}
    path = tmp_path / "tuned.safetensors"
    save_file({f"net.{name}": torch.randn(shape) for name, shape in shapes.items()}, path, metadata={"format": "pt"})
    return path


def test_a_plan_is_carried_out_on_another_checkpoint(run: Run, saved: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    outcome = run("apply", str(saved), str(checkpoint), "--out", str(out), "--prefix", "net.", "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, "")
    plan = Plan.from_json((saved / "plan.json").read_text())
    state = {name.removeprefix("net."): tensor for name, tensor in load_file(checkpoint).items()}
    wanted = plan.slice_state_dict(state)
    found = load_file(out / "tuned.safetensors")
    assert found.keys() == {f"net.{name}" for name in wanted}
    assert all(torch.equal(found[f"net.{name}"], tensor) for name, tensor in wanted.items())
    assert document["bytes_before"] == 1680
    assert document["bytes_after"] == sum(4 * tensor.numel() for tensor in wanted.values())
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "plan.json", "tuned.safetensors"]


def test_the_line_tells_what_was_written(run: Run, saved: Path, checkpoint: Path, tmp_path: Path) -> None:
    words = ("apply", str(saved / "plan.json"), str(checkpoint), "--out", str(tmp_path / "small"))
    outcome = run(*words, "--prefix", "net.")
    assert outcome.out.splitlines()[0] == "1 files, 3 tensors sliced, 0 left out"
    assert "1.68kB before, 848B after (50.5%), written to" in outcome.out
    refused = run(*words)
    assert refused.code == 1
    assert "prefix='net.' would match 4 of them" in refused.err
    assert "unknown='keep', wanted one of refuse, copy, drop" in run(*words, "--unknown", "keep").err
