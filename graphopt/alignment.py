"""Widths that hardware likes: of how many elements a channel dimension should be a multiple."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

GPU_BYTES = 16
"""Bytes that a row should be a multiple of on a GPU, so that tensor cores take it without padding."""

LANES = {"AVX512": 16, "AVX2": 8}
"""32-bit lanes of a vector register by what torch calls the CPU's capability; others, such as NEON, have 4."""


@dataclass(frozen=True)
class Alignment:
    """Of what the widths of one element type should be multiples on one kind of device.

    Attributes:
        multiple: Number of elements, 1 where any width is as good.
        reason: Why, in one clause.
    """

    multiple: int
    reason: str


def alignment(dtype: torch.dtype, device_type: str) -> Alignment:
    """Return what widths of an element type should be multiples of on a kind of device, and why.

    Args:
        dtype: Type of the elements that the wide operators read.
        device_type: ``cpu`` for this machine's vector units, which ONNX Runtime and oneDNN block channels by; any other
            kind, ``cuda`` above all, counts as an accelerator that loads 16 bytes at a time.

    References:
        NVIDIA, Matrix Multiplication Background User's Guide (DU-09799-001), "Requirements to use Tensor Cores":
        multiples of 16 bytes in every dimension. Narrower types than 32 bits are accumulated in 32-bit lanes on a CPU,
        so that they ask for no more there than float32 does.
    """
    if device_type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        lanes = LANES.get(capability, 4)
        multiple = max(1, lanes * 4 // max(4, dtype.itemsize))
        return Alignment(multiple, f"vectors of {lanes * 4} bytes ({capability}) hold {multiple} elements")
    multiple = max(1, GPU_BYTES // dtype.itemsize)
    return Alignment(multiple, f"tensor cores take {GPU_BYTES} bytes, which are {multiple} elements, at a time")


def preferred_multiple(dtype: torch.dtype, device_type: str) -> int:
    """Return of how many elements a width should be a multiple; `alignment` tells why.

    Args:
        dtype: Type of the elements.
        device_type: As `torch.device.type` gives it.
    """
    return alignment(dtype, device_type).multiple


def next_multiple(size: int, multiple: int) -> int:
    """Return the smallest multiple that is not less than a size."""
    return -(-size // multiple) * multiple


def units_step(multiple: int, indices_per_unit: int) -> int:
    """Return of what a number of units must be a multiple, so that the width they make up is one.

    Args:
        multiple: What the width should be a multiple of.
        indices_per_unit: How much of the width one unit is.
    """
    return multiple // math.gcd(multiple, indices_per_unit)
