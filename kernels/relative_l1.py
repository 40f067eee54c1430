"""How far a value moved from what is stored: the probe of first-block caches."""

from __future__ import annotations

from torch import Tensor
from torch.library import triton_op


def reference(value: Tensor, base: Tensor | None, stored: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `relative_l1` does in plain torch, in the order of the graph without it."""
    residual = value.clone() if base is None else value - base
    distance = (stored - residual).abs().mean() / stored.abs().mean()
    return residual, distance, distance <= threshold


@triton_op("graphopt::relative_l1", mutates_args=())
def relative_l1(value: Tensor, base: Tensor | None, stored: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return value - base, its relative L1 distance from what is stored, and whether that is within the threshold."""
    return reference(value, base, stored, threshold)
