"""How far a value moved from what is stored: the probe of first-block caches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from graphopt.kernels.gradients import differentiate_by
from graphopt.kernels.language import jit, tl
from graphopt.kernels.launch import Choice, on_device, tuned, uses_triton
from graphopt.kernels.layout import laid_out_like, overlaps, refuse_shape, same_strides, size_bytes
from graphopt.kernels.table import Kernel

PARTS = 1024
"""Into how many parts the tensors are summed at most."""

BLOCK = 2048

# One way to launch: another one would sum in another order, and two processes might decide differently.
_ONE_WAY = (Choice((("block", BLOCK),), num_warps=8),)


@tuned(_ONE_WAY, key=())
@jit
def _sum_parts(
    value: tl.tensor,
    base: tl.tensor,
    stored: tl.tensor,
    residual: tl.tensor,
    sums: tl.tensor,
    count: tl.tensor,
    part: tl.tensor,
    has_base: tl.constexpr,
    block: tl.constexpr,
) -> None:
    moved = tl.zeros([block], tl.float32)
    size = tl.zeros([block], tl.float32)
    first = tl.program_id(0).to(tl.int64) * part
    for start in range(0, part, block):
        at = first + start + tl.arange(0, block)
        inside = at < count
        fresh = tl.load(value + at, mask=inside, other=0.0).to(tl.float32)
        if has_base:
            fresh -= tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
        kept = fresh.to(residual.dtype.element_ty)
        tl.store(residual + at, kept, mask=inside)
        known = tl.load(stored + at, mask=inside, other=0.0).to(tl.float32)
        moved += tl.abs(known - kept.to(tl.float32))
        size += tl.abs(known)
    tl.store(sums + 2 * tl.program_id(0), tl.sum(moved, 0))
    tl.store(sums + 2 * tl.program_id(0) + 1, tl.sum(size, 0))


@tuned((Choice((("block", PARTS),), num_warps=4),), key=())
@jit
def _compare(
    sums: tl.tensor,
    distance: tl.tensor,
    within: tl.tensor,
    parts: tl.tensor,
    count: tl.tensor,
    threshold: tl.tensor,
    block: tl.constexpr,
) -> None:
    at = tl.arange(0, block)
    moved = tl.sum(tl.load(sums + 2 * at, mask=at < parts, other=0.0), 0) / count
    size = tl.sum(tl.load(sums + 2 * at + 1, mask=at < parts, other=0.0), 0) / count
    relative = tl.div_rn(moved, size).to(distance.dtype.element_ty)
    tl.store(distance, relative)
    tl.store(within, relative <= tl.cast(threshold, distance.dtype.element_ty))


def reference(value: Tensor, base: Tensor | None, stored: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `relative_l1` does in plain torch, in the order of the unfused graph."""
    residual = value.clone() if base is None else value - base
    distance = (stored - residual).abs().mean() / stored.abs().mean()
    return residual, distance, distance <= threshold


def supports(value: Tensor, base: Tensor | None, stored: Tensor, threshold: float) -> str | None:
    """Why the kernel does not take these arguments; None where it takes them."""
    named = {"value": value, "stored": stored}
    reason = refuse_shape(named if base is None else named | {"base": base})
    return "value overlaps itself in memory" if reason is None and overlaps(value) else reason


@triton_op("graphopt::relative_l1", mutates_args=())
def relative_l1(value: Tensor, base: Tensor | None, stored: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return value - base, its relative L1 distance from what is stored, and whether that is within a threshold.

    The distance is mean |stored - residual| / mean |stored|, 0-d in the dtype of `value`; a stored value of zeros
    alone gives infinity or NaN, and is never within. The threshold is compared in that dtype too. Sums are taken in
    float32 in two stages, in an order that depends on nothing but the number of elements. The unfused graph rounds
    every difference and both means to the dtype; the kernel rounds the residual and the distance. Gradients are those
    of the residual and of the distance: the decision has none.

    Args:
        value: the fresh value. All tensors have its shape, and for the kernel its dtype. The residual lies in memory as
            the value does, without gaps; what lies otherwise is copied for the kernel, which still moves fewer bytes
            than single operations: ten tensors of twelve if all three are.
        base: what it is the residual over, or None: the residual is then a copy of the value.
        stored: the residual of the step that filled the cache.
        threshold: the largest distance that counts as near.

    References:
        Liu et al., Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model (TeaCache), arXiv 2411.19108.
    """
    present = [value, stored] if base is None else [value, stored, base]
    if not uses_triton(*present) or supports(value, base, stored, threshold) is not None:
        return reference(value, base, stored, threshold)
    return _launch(value, base, stored, threshold)


differentiate_by(relative_l1, reference)


def _launch(value: Tensor, base: Tensor | None, stored: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    count = value.numel()
    part = (count + PARTS * BLOCK - 1) // (PARTS * BLOCK) * BLOCK
    parts = (count + part - 1) // part
    residual = torch.empty_like(value)
    sums = value.new_empty((parts, 2), dtype=torch.float32)
    distance = value.new_empty(())
    within = value.new_empty((), dtype=torch.bool)
    with on_device(value):
        value, stored = laid_out_like(value, residual), laid_out_like(stored, residual)
        first = value if base is None else laid_out_like(base, residual)
        wrap_triton(_sum_parts)[(parts,)](value, first, stored, residual, sums, count, part, has_base=base is not None)
        wrap_triton(_compare)[(1,)](sums, distance, within, parts, count, threshold)
    return residual, distance, within


def _bytes_before(value: Tensor, base: Tensor | None, stored: Tensor, threshold: float) -> int:
    """The residual (3) or its copy (2), the change (3), its magnitude (2) and mean (1), and the stored one's (3)."""
    return size_bytes(value) * (11 if base is None else 12)


def _bytes_after(value: Tensor, base: Tensor | None, stored: Tensor, threshold: float) -> int:
    """What is read and written once, and the copies of what does not lie in memory as the residual does."""
    residual = torch.empty_like(value, device="meta")
    given = [value, stored] if base is None else [value, stored, base]
    copies = sum(not same_strides(tensor, residual) for tensor in given)
    return size_bytes(value) * (len(given) + 1 + 2 * copies)


KERNEL = Kernel(
    name="relative_l1",
    op=torch.ops.graphopt.relative_l1.default,
    reference=reference,
    supports=supports,
    bytes_before=_bytes_before,
    bytes_after=_bytes_after,
)
