"""A stored value predicted for the present step, and added to what the step computed itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from graphopt.kernels.gradients import differentiate_by
from graphopt.kernels.language import jit, tl, triton
from graphopt.kernels.launch import Choice, on_device, tuned, uses_triton
from graphopt.kernels.layout import refuse_layout, size_bytes
from graphopt.kernels.table import Kernel

ORDERS = 4
"""How many differences one launch takes."""


@tuned(
    (
        Choice((("block", 1024),), num_warps=4),
        Choice((("block", 2048),), num_warps=4),
        Choice((("block", 2048),), num_warps=8),
        Choice((("block", 4096),), num_warps=8),
    ),
    key=("count", "orders", "has_base"),
)
@jit
def _kernel(
    base: tl.tensor,
    value: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    third: tl.tensor,
    fourth: tl.tensor,
    elapsed: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    orders: tl.constexpr,
    has_base: tl.constexpr,
    block: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    total = tl.load(value + at, mask=inside).to(tl.float32)
    if orders > 0:
        step = tl.load(elapsed).to(tl.float32)
        total += tl.load(first + at, mask=inside).to(tl.float32) * step
    if orders > 1:
        total += tl.load(second + at, mask=inside).to(tl.float32) * (step * step / 2)
    if orders > 2:
        total += tl.load(third + at, mask=inside).to(tl.float32) * (step * step * step / 6)
    if orders > 3:
        total += tl.load(fourth + at, mask=inside).to(tl.float32) * (step * step * step * step / 24)
    if has_base:
        total = tl.load(base + at, mask=inside).to(tl.float32) + total
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


def reference(base: Tensor | None, value: Tensor, differences: list[Tensor], elapsed: Tensor) -> Tensor:
    """Do what `taylor_add` does in plain torch, in the order of the unfused graph."""
    total = value
    for order, difference in enumerate(differences, start=1):
        weight = torch.pow(elapsed, order) / math.factorial(order)
        total = total + difference * weight
    if base is not None:
        return base + total
    return total if differences else total.clone()


def supports(base: Tensor | None, value: Tensor, differences: list[Tensor], elapsed: Tensor) -> str | None:
    """Why the kernel does not take these arguments; None where it takes them."""
    if len(differences) > ORDERS:
        return f"there are {len(differences)} differences, and one launch takes {ORDERS}"
    if elapsed.dim() > 0 or not elapsed.is_floating_point():
        return f"elapsed is {elapsed.dtype} of shape {[*elapsed.shape]}, not one floating-point number"
    if elapsed.device != value.device:
        return f"elapsed is on {elapsed.device} and value on {value.device}"
    named = {"value": value} | {f"difference {order}": tensor for order, tensor in enumerate(differences, start=1)}
    return refuse_layout(named if base is None else named | {"base": base})


@triton_op("graphopt::taylor_add", mutates_args=())
def taylor_add(base: Tensor | None, value: Tensor, differences: list[Tensor], elapsed: Tensor) -> Tensor:
    """Return base + (value + Σ differences[k - 1] · elapsedᵏ / k!), base being 0 where it is None.

    The unfused graph rounds to the dtype after every product and sum; the kernel computes in float32 and rounds once.

    Args:
        base: what the step computed itself, or None.
        value: the stored value. All tensors but `elapsed` have its shape, and for the kernel its dtype and strides.
        differences: backward differences of the stored value by order, up to four for the kernel.
        elapsed: steps since the value was stored, 0-d and on the device, so that reading it waits for nothing.

    References:
        Liu et al., From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers, arXiv 2503.06923.
    """
    present = [value, *differences, elapsed] if base is None else [base, value, *differences, elapsed]
    if not uses_triton(*present) or supports(base, value, differences, elapsed) is not None:
        return reference(base, value, differences, elapsed)
    return _launch(base, value, differences, elapsed)


differentiate_by(taylor_add, reference)


def _launch(base: Tensor | None, value: Tensor, differences: list[Tensor], elapsed: Tensor) -> Tensor:
    out = torch.empty_like(value)
    # Pointers that a launch does not read are still arguments of it.
    padded = [*differences, *[value] * (ORDERS - len(differences))]
    count = value.numel()
    with on_device(value):
        wrap_triton(_kernel)[lambda meta: (triton.cdiv(count, meta["block"]),)](
            value if base is None else base,
            value,
            *padded,
            elapsed,
            out,
            count,
            orders=len(differences),
            has_base=base is not None,
        )
    return out


def _bytes_before(base: Tensor | None, value: Tensor, differences: list[Tensor], elapsed: Tensor) -> int:
    """A product and a sum for every order, and the sum with the base."""
    return size_bytes(value) * (5 * len(differences) + (0 if base is None else 3))


def _bytes_after(base: Tensor | None, value: Tensor, differences: list[Tensor], elapsed: Tensor) -> int:
    return size_bytes(value) * (len(differences) + (2 if base is None else 3))


KERNEL = Kernel(
    name="taylor_add",
    op=torch.ops.graphopt.taylor_add.default,
    reference=reference,
    supports=supports,
    bytes_before=_bytes_before,
    bytes_after=_bytes_after,
)
