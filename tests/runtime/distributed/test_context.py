"""Context parallelism of diffusers: equal to one process to rounding, the same refusal everywhere, a clean end."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from graphopt.errors import DeviceFailureError, GraphoptError, MissingExtraError, RuntimeMismatchError
from graphopt.runtime.distributed import context
from graphopt.runtime.distributed.agreeing import digest
from graphopt.runtime.distributed.board import Board, Meeting, host_board
from graphopt.runtime.distributed.context import context_parallel
from graphopt.runtime.distributed.launch import launch

SCRIPT = str(Path(__file__).parent / "context_script.py")
ROUNDING = 1e-6
TIMEOUT = 6.0


def flux(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=0,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 6, 6),
    ).eval()


def refused(make: Callable[[int], Any], processes: int = 2, **degrees: int) -> str:
    """Begin in threads, which never come to making groups; require one error in all of them, and return it."""
    board = host_board()
    models = [make(rank) for rank in range(processes)]
    found: dict[int, Exception] = {}

    def act(rank: int) -> None:
        meeting = Meeting(rank, processes, port=board.port, hosted=True, timeout_seconds=TIMEOUT)
        try:
            context_parallel(models[rank], meeting=meeting, **degrees)
        except GraphoptError as error:
            found[rank] = error

    threads = [threading.Thread(target=act, args=(rank,), daemon=True) for rank in range(processes)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * TIMEOUT)
    assert time.monotonic() - begun < 3 * TIMEOUT
    texts = {f"{type(error).__name__}: {error}" for error in found.values()}
    assert len(found) == processes, found
    assert len(texts) == 1, texts
    return texts.pop()


def test_a_model_without_a_plan() -> None:
    text = refused(lambda rank: nn.Linear(2, 2), ulysses=2)
    assert "Linear has no plan for context parallelism (_cp_plan)" in text
    assert "partition{devices=K,mode=patch}" in text


def test_a_pipeline_without_a_denoiser() -> None:
    assert "SimpleNamespace has no model under unet, transformer" in refused(lambda rank: SimpleNamespace(), ulysses=2)


def test_only_one_process_has_a_fault() -> None:
    text = refused(lambda rank: nn.Linear(2, 2) if rank else flux(), ulysses=2)
    assert text.startswith("GraphoptError: rank 1 failed: Linear has no plan")


@pytest.mark.parametrize("degrees", [{}, {"ulysses": 3}, {"ring": 2, "ulysses": 2}, {"ring": -1, "ulysses": -2}])
def test_degrees_that_are_not_the_processes(degrees: dict[str, int]) -> None:
    assert "and 2 processes, wanted two numbers from 1 up whose product" in refused(lambda rank: flux(), **degrees)


def test_heads_that_cannot_be_shared() -> None:
    text = refused(lambda rank: flux(), processes=3, ulysses=3)
    assert "has 2 heads, wanted a multiple of ulysses=3" in text


def test_ring_attention_needs_another_backend() -> None:
    text = refused(lambda rank: flux(), ring=2)
    assert "runs by native, wanted for ring=2 one of _" in text


def test_other_weights_are_found() -> None:
    text = refused(flux, ulysses=2)
    assert text.startswith("RuntimeMismatchError: rank 1 differs from rank 0 in the weights")


def test_a_process_that_does_not_come() -> None:
    board = host_board()
    meeting = Meeting(0, 2, port=board.port, hosted=True, timeout_seconds=0.5)
    with pytest.raises(DeviceFailureError, match=r"rank 1 did not come within 0.5 s"):
        context_parallel(flux(), ulysses=2, meeting=meeting)


def test_other_versions_are_found() -> None:
    board = host_board()
    meeting = Meeting(1, 2, port=board.port, hosted=True, timeout_seconds=TIMEOUT)
    Board(meeting).put("facts/1", json.dumps({"graphopt": context.__version__, "torch": "0.1"}))
    with pytest.raises(RuntimeMismatchError, match=r"rank 1 differs from rank 0 in torch: found 0.1, wanted"):
        context_parallel(flux(), ulysses=2, meeting=replace(meeting, rank=0))


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match="diffusers"):
        context_parallel(nn.Linear(2, 2), ulysses=2)


def test_nobody_started_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(GraphoptError, match="torchrun"):
        context_parallel(flux(), ulysses=2)


def test_a_refused_model_is_as_it_was() -> None:
    model = flux()
    refused(lambda rank: model, ring=2)
    assert model._parallel_config is None
    assert not any(hasattr(one, "_diffusers_hook") for one in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int64])
def test_a_digest_tells_models_apart(dtype: torch.dtype) -> None:
    model = nn.Module()
    values = torch.arange(24).to(dtype).reshape(2, 3, 4)
    model.register_buffer("table", values.transpose(0, 2))
    before = digest(model)
    assert digest(model) == before
    values[0, 0, 0] += 1
    assert digest(model) != before


def error(found: dict[str, Tensor], name: str) -> float:
    return float((found[name] - found["before"]).norm() / found["before"].norm())


@pytest.mark.slow
def test_two_processes_equal_one_and_end_cleanly(tmp_path: Path) -> None:
    cases = ("raise", "odd", "weights", "flux", "wan", "recorded")
    launch([sys.executable, SCRIPT, ",".join(cases), "15", str(tmp_path)], 2)
    for rank in range(2):
        texts = {case: (tmp_path / f"{case}{rank}.txt").read_text(encoding="utf-8") for case in cases[:3]}
        assert texts["raise"] == "DeviceFailureError: rank 1 failed: ValueError: out of paint"
        assert "must be divisible by mesh size" in texts["odd"]
        assert texts["weights"].startswith("RuntimeMismatchError: rank 1 differs from rank 0 in the weights")
        for case, tokens in (("flux", 16), ("wan", 32)):
            found = load_file(tmp_path / f"{case}{rank}.safetensors")
            assert error(found, "split") < ROUNDING
            assert torch.equal(found["before"], found["after"])
            assert set(found["tokens"].tolist()) == {tokens, tokens // 2}
        noted = load_file(tmp_path / f"recorded{rank}.safetensors")
        assert noted["sizes"].tolist() == [2, 1, 2, 1]
        assert noted["total"].item() == 3
        assert noted["ended"].item()


@pytest.mark.slow
def test_a_process_that_hangs(tmp_path: Path) -> None:
    with pytest.raises(DeviceFailureError, match="another process did not answer within 4 s while rank 0"):
        launch([sys.executable, SCRIPT, "sleep", "4", str(tmp_path)], 2)
