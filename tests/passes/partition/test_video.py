"""Clips of a video on several devices: equal to the model, or to a model that sees as much, and bytes by the formulas.

The formulas are those of Tan et al., Video-Infinity, arXiv 2406.16260: a halo of frames for a convolution, moments for
a group norm, keys and values of neighbouring and of strided frames for attention.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo.catalogue import entries

import graphopt
from graphopt.cli import main
from graphopt.liveness import activation_peak
from graphopt.pass_manager import PassContext, Pipeline, Result
from graphopt.program import Program
from graphopt.rewrite.sharding.ranges import even_parts
from graphopt.rewrite.sharding.sharded import shard

EXAMPLE = Path(__file__).parents[3] / "examples" / "video_clips.py"
ROUNDING = 1e-6
BATCH, FRAMES, SIDE, CHANNELS, FLOAT = 2, 16, 8, 32, 4


def slow(*values: Any) -> list[Any]:
    """Parameters of tests that are left out in a hurry."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow) for value in values
    ]


def example() -> Any:
    spec = importlib.util.spec_from_file_location("video_clips", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def video() -> tuple[nn.Module, Program]:
    model, args = example().build()
    return model, graphopt.capture(model, args)


@pytest.fixture(scope="module")
def parted(video: tuple[nn.Module, Program]) -> Callable[..., Result]:
    """Return `parted(devices, scope)`, which remembers."""
    known: dict[tuple[int, str], Result] = {}

    def part(devices: int, scope: str = "") -> Result:
        if (devices, scope) not in known:
            text = f'partition{{devices={devices},mode=patch,axis="sample:2"{scope}}}'
            known[devices, scope] = Pipeline(text).run(video[1], context=PassContext(verify=False))
        return known[devices, scope]

    return part


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(BATCH, 4, FRAMES, SIDE, SIDE, generator=generator), torch.tensor([20.0, 900.0])


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def emulated(result: Result) -> Tensor:
    found: Tensor = graphopt.Emulation(result)(*inputs())
    return found


def computed(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(*inputs())
    return found


def clips(devices: int) -> list[range]:
    return [range(*ranges[0]) for ranges in even_parts(FRAMES, devices, 1)]


def seen(clip: range, local: int, total: int) -> set[int]:
    """Frames that attention in a clip sees: its own, ``local`` of each neighbour, ``total`` of all."""
    beside = range(max(0, clip.start - local), min(FRAMES, clip.stop + local))
    return {*beside, *(number * FRAMES // total for number in range(total))}


@pytest.mark.parametrize("devices", [2, *slow(3, 4)])
@pytest.mark.parametrize("scope", ["", f",local={FRAMES}"])
def test_seeing_everything_equals_the_model(video: Any, parted: Any, devices: int, scope: str) -> None:
    assert error(emulated(parted(devices, scope)), computed(video[0])) < ROUNDING


@pytest.mark.parametrize(("devices", "local", "total"), [(2, 0, 0), (2, 2, 4), *slow((4, 1, 0), (4, 2, 2), (3, 0, 5))])
def test_dual_scope_equals_a_model_with_a_mask(
    video: Any, parted: Any, monkeypatch: pytest.MonkeyPatch, devices: int, local: int, total: int
) -> None:
    plain = computed(video[0])
    mask = torch.zeros(FRAMES, FRAMES, dtype=torch.bool)
    for clip in clips(devices):
        mask[clip.start : clip.stop, sorted(seen(clip, local, total))] = True
    attention = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", lambda *qkv: attention(*qkv, attn_mask=mask))
    found = emulated(parted(devices, f",local={local},total={total}"))
    assert error(found, computed(video[0])) < ROUNDING
    assert error(found, plain) > 1e-3


def sent(result: Result) -> int:
    assert result.partition is not None
    return result.partition.phases["sync"].size_bytes


def expected_bytes(devices: int, frames_read: list[int]) -> int:
    """Bytes of a step, layer by layer.

    Args:
        devices: number of devices.
        frames_read: by device, of how many frames that it does not have attention reads keys and values.
    """
    others = FRAMES - len(clips(devices)[0])
    ends = 2 * BATCH * 4 * others * SIDE**2 * FLOAT + (devices - 1) * BATCH * FLOAT  # sample, output, timestep
    moments = devices * (devices - 1) * 2 * BATCH * 4 * FLOAT  # a mean and a variance a group, of each to each other
    total = ends + 4 * moments
    for side in (SIDE // 2, SIDE):
        halo = 2 * (devices - 1) * BATCH * CHANNELS * side**2 * FLOAT  # one frame each way over each border
        sites = BATCH * side**2
        total += halo + sum(2 * frames * sites * CHANNELS * FLOAT for frames in frames_read)
    return total


@pytest.mark.parametrize("devices", [2, *slow(4)])
def test_bytes_of_exact_clips(parted: Any, devices: int) -> None:
    read = [FRAMES - len(clip) for clip in clips(devices)]
    assert sent(parted(devices)) == expected_bytes(devices, read)


@pytest.mark.parametrize(("devices", "local", "total"), [(2, 0, 0), (2, 2, 4), *slow((4, 1, 0), (4, 2, 2))])
def test_bytes_of_dual_scope(parted: Any, devices: int, local: int, total: int) -> None:
    read = [len(seen(clip, local, total) - {*clip}) for clip in clips(devices)]
    found = sent(parted(devices, f",local={local},total={total}"))
    assert found == expected_bytes(devices, read)
    borders = [(clip.start > 0) + (clip.stop < FRAMES) for clip in clips(devices)]
    assert sum(read) <= local * sum(borders) + total * (devices - 1)  # theirs: halo and strided frames apart
    assert found < sent(parted(devices))


@pytest.mark.slow
def test_memory_of_a_device_falls(video: Any, parted: Any) -> None:
    alone = sum(one.nbytes for one in video[1].graph_module.parameters()) + activation_peak(video[1].graph_module)
    scope = ",local=1,total=0"
    two, four = (max(share.peak_bytes for share in parted(devices, scope).partition.shares) for devices in (2, 4))
    assert four < 0.85 * two
    assert four < 0.9 * alone


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["", ",local=1,total=2"])
def test_two_processes_equal_the_emulation(tmp_path: Path, capsys: pytest.CaptureFixture[str], scope: str) -> None:
    text = f'partition{{devices=2,mode=patch,axis="sample:2"{scope}}}'
    assert main(["optimize", f"{EXAMPLE}:build", "--passes", text, "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    words = ["run", str(tmp_path / "out"), "--nproc", "2", "--steps", "3", "--check", "--json", "--timeout", "30"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["emulated_equal"] is True
    assert (found["error"] < ROUNDING) == (scope == "")
    read = [8, 8] if not scope else [len(seen(clip, 1, 2) - {*clip}) for clip in clips(2)]
    unchanged = 2 * BATCH * FLOAT  # the timestep is the same tensor in all steps, so it is sent once
    assert found["bytes"] == 3 * expected_bytes(2, read) - unchanged


@pytest.mark.slow
@pytest.mark.parametrize(("name", "axis"), [("unet_3d", "sample:2"), ("unet_motion", "sample:2")])
def test_video_networks_of_diffusers(name: str, axis: str) -> None:
    model, args, kwargs = next(entry for entry in entries("diffusers") if entry.name == name).build()
    sharded = shard(graphopt.capture(model, args, kwargs), 2, axis=axis)
    assert sharded.share > 0.99
    with torch.no_grad():
        found, wanted = sharded.placed.program(*args, **kwargs), model(*args, **kwargs)
    assert error(found.sample, wanted.sample) < 2 * ROUNDING
