"""The denoisers, their inputs, and the caches that they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from end_to_end_comparison.dit import CLASSES, DiT, DiTSize
from end_to_end_comparison.unet import UNet, UNetSize

TEXT_TOKENS = 77
BRANCHES = 2
"""With guidance a batch holds the picture twice: without and with the condition."""


@dataclass(frozen=True)
class Cache:
    """A cache, as text for a pipeline.

    Attributes:
        label: what the tables call it.
        passes: the passes.
        claimed: speed-up that the method's authors claim for the same model, steps and schedule, with its source.
    """

    label: str
    passes: str
    claimed: str = ""


@dataclass(frozen=True)
class Subject:
    """A denoiser.

    Attributes:
        make: builds it, on the device and in the dtype that are the default.
        side: of the latents.
        conditions: the inputs behind latents and timestep, on the default device.
        timestep: what it takes for a timestep.
        caches: by number of steps.
    """

    make: Callable[[], nn.Module]
    side: int
    conditions: Callable[[torch.dtype], tuple[Tensor, ...]]
    timestep: Callable[[int], Tensor]
    caches: Callable[[int], tuple[Cache, ...]]


def subject_of(name: str, *, tiny: bool) -> Subject:
    """Return a denoiser by name, at full size or small enough for one processor."""
    return SUBJECTS[name](tiny)


def randomised(subject: Subject, device: str, dtype: torch.dtype) -> nn.Module:
    """Make the denoiser with random weights, each of which keeps the size of what passes through it."""
    torch.manual_seed(0)
    with torch.device(device):
        model = subject.make()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, 1 / math.sqrt(parameter[0].numel()))
        else:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).eval().requires_grad_(False)


def _unet(tiny: bool) -> Subject:
    size = UNetSize((16, 32, 32, 32), context=32, heads=4, groups=8) if tiny else UNetSize()

    def conditions(dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (torch.randn(BRANCHES, TEXT_TOKENS, size.context).to(dtype),)

    return Subject(
        lambda: UNet(size), 16 if tiny else 64, conditions, lambda step: torch.tensor(step), lambda steps: UNET_CACHES
    )


def _dit(tiny: bool) -> Subject:
    size = DiTSize(width=32, depth=4, heads=4, side=8) if tiny else DiTSize()

    def conditions(dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (torch.tensor([CLASSES, 207]),)

    return Subject(
        lambda: DiT(size),
        size.side,
        conditions,
        lambda step: torch.full((BRANCHES,), step),
        lambda steps: _dit_caches(steps, size.depth),
    )


UNET_CACHES = (Cache("DeepCache, every 3rd step full", "deepcache{interval=3}", "2.3 (SD1.5, 50 steps, 2312.00858)"),)


def _dit_caches(steps: int, depth: int) -> tuple[Cache, ...]:
    """Caches of a transformer; what they skip is set by number, so that random weights decide nothing.

    The first block's threshold is out of reach: the session still reads what the probe measures at every step.
    """
    rows = ("0" * 2 * depth, ("1110" * depth)[: 2 * depth])
    table = ",".join(rows[step % 2] for step in range(steps))
    return (
        Cache("first block, every 3rd step full", "first-block{threshold=1000000.0,max_consecutive=2}"),
        Cache("l2c, 3 of 4 sub-layers at every 2nd step", f"l2c{{table=[{table}]}}"),
        Cache("TaylorSeer, every 3rd step full", "taylorseer{interval=3,layers=all}"),
    )


SUBJECTS: Mapping[str, Callable[[bool], Subject]] = {"unet": _unet, "dit": _dit}
TITLES = {"unet": "U-Net of Stable Diffusion 1.5", "dit": "DiT-XL/2"}
