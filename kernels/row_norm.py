"""The norm over the last dimension with scale and shift: its reference, what it takes, and its device function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphopt.errors import SpecError
from graphopt.kernels.language import jit, tl
from graphopt.kernels.launch import Choice
from graphopt.kernels.layout import DTYPES, overlaps, size_bytes

NORMS = ("layer", "rms")
LARGEST_ROW = 16384
"""Channels that one program holds in registers, in float32."""

CHOICES = (
    Choice((("rows_each", 4),), num_warps=4),
    Choice((("rows_each", 1),), num_warps=4),
    Choice((("rows_each", 1),), num_warps=8),
    Choice((("rows_each", 2),), num_warps=8),
    Choice((("rows_each", 4),), num_warps=8),
    Choice((("rows_each", 8),), num_warps=8),
    Choice((("rows_each", 1),), num_warps=16),
    Choice((("rows_each", 4),), num_warps=16),
)
"""Rows that one program takes one after another; those of one sample share its gates, scale and shift in the cache."""


def modulated_norm(
    y: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    wide: bool,
) -> Tensor:
    """Normalise the last dimension, then ``* weight + bias``, then ``* (1 + scale) + shift``, each where it is given.

    With `wide` the norm is computed in float32, between casts of the input and of the result. Weight and bias of a
    LayerNorm belong to it; the weight of an RMSNorm does if it is in float32, and is multiplied behind the cast if it
    is not.

    Raises:
        SpecError: the norm is none that there is.
    """
    if norm not in NORMS:
        raise SpecError(f"found the norm {norm!r}; wanted one of {', '.join(NORMS)}", option="norm")
    source = y.to(torch.promote_types(y.dtype, torch.float32)) if wide else y
    if norm == "layer":
        factor, summand = (one.to(source.dtype) if one is not None and wide else one for one in (weight, bias))
        normed = torch.nn.functional.layer_norm(source, y.shape[-1:], factor, summand, eps).to(y.dtype)
    elif weight is None or weight.dtype == source.dtype:
        normed = torch.nn.functional.rms_norm(source, y.shape[-1:], weight, eps).to(y.dtype)
    else:
        normed = torch.nn.functional.rms_norm(source, y.shape[-1:], None, eps).to(y.dtype) * weight
    normed = normed + bias if norm == "rms" and bias is not None else normed
    normed = normed if scale is None else normed * (1 + scale)
    return normed if shift is None else normed + shift


def unsupported(
    x: Tensor,
    alike: Sequence[Tensor],
    parameters: Sequence[Tensor | None],
    modulation: Sequence[Tensor | None],
    norm: str,
    *,
    wide: bool,
) -> str | None:
    """Why a kernel over rows does not take these, in one clause; None where it does.

    Args:
        x: (..., channels).
        alike: tensors that must have the shape of ``x``.
        parameters: tensors that must be (channels,); with `wide` they may be in float32.
        modulation: tensors that broadcast against ``x``: one value a channel, or one a sample and channel, samples
            being the first dimension.
        norm: the norm's name.
        wide: whether the norm is computed between casts.
    """
    if norm not in NORMS:
        return f"the norm {norm!r} is none of {', '.join(NORMS)}"
    if x.dtype not in DTYPES:
        return f"the dtype is {x.dtype}"
    reason = _mixed(x, [*alike, *modulation], parameters, (x.dtype, torch.float32) if wide else (x.dtype,))
    if reason is not None:
        return reason
    if x.dim() == 0 or x.numel() == 0:
        return "the input has no rows"
    if overlaps(x):
        return "the input overlaps itself in memory"
    if x.shape[-1] > LARGEST_ROW:
        return f"a row has {x.shape[-1]} channels, more than {LARGEST_ROW}"
    if any(tensor.shape != x.shape for tensor in alike):
        return "a stored tensor does not have the input's shape"
    if any(tensor is not None and tensor.shape != x.shape[-1:] for tensor in parameters):
        return "weight or bias is not one value a channel"
    if not all(tensor is None or _is_per_sample(tensor, x) for tensor in modulation):
        return "a gate, scale or shift varies over more than samples and channels"
    return None


def samples(x: Tensor, modulation: Sequence[Tensor | None]) -> int:
    """How many stretches of rows of ``x`` have a modulation of their own."""
    return x.shape[0] if any(tensor is not None and _is_batched(tensor, x) for tensor in modulation) else 1


def aligned(tensors: Sequence[Tensor], batch: int, channels: int) -> tuple[list[Tensor], int]:
    """View modulations as (batch, channels), consecutive along the channels, and return the stride all have in common.

    They are copied, small as they are, only where they do not lie in memory alike.
    """
    flat = [tensor.reshape(-1, tensor.shape[-1]).expand(batch, channels) for tensor in tensors]
    if all(tensor.stride() == (flat[0].stride(0), 1) for tensor in flat):
        return flat, flat[0].stride(0) if flat else 0
    return [tensor.contiguous() for tensor in flat], channels


def norm_bytes(
    y: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    *,
    wide: bool,
) -> int:
    """Bytes that the unfused norm and modulation read and write: two passes over ``y`` for each operation.

    Casts write and read a value in float32, and the norm between them too.
    """
    casts = wide and y.dtype != torch.float32
    late = casts and norm == "rms" and weight is not None and weight.dtype == y.dtype
    operations = 1 + late + (scale is not None) + (shift is not None)
    between = 4 * y.numel() * torch.float32.itemsize if casts else 0
    return 2 * operations * size_bytes(y) + between + size_bytes(weight, bias, scale, shift)


def _mixed(
    x: Tensor, same: Sequence[Tensor | None], parameters: Sequence[Tensor | None], dtypes: Sequence[torch.dtype]
) -> str | None:
    """Say which dtypes or devices differ; parameters may have any of some dtypes."""
    if any(tensor is not None and tensor.dtype != x.dtype for tensor in same):
        return f"not every tensor has the input's dtype {x.dtype}"
    if any(tensor is not None and tensor.dtype not in dtypes for tensor in parameters):
        return f"weight or bias is not {' or '.join(map(str, dict.fromkeys(dtypes)))}"
    if any(tensor is not None and tensor.device != x.device for tensor in (*same, *parameters)):
        return f"not every tensor is on the input's device {x.device}"
    return None


def _is_per_sample(tensor: Tensor, x: Tensor) -> bool:
    if tensor.dim() == 0 or tensor.dim() > x.dim() or tensor.shape[-1] not in (1, x.shape[-1]):
        return False
    between = tensor.shape[1:-1] if _is_batched(tensor, x) else tensor.shape[:-1]
    leading = tensor.shape[0] == x.shape[0] if _is_batched(tensor, x) else True
    return leading and all(size == 1 for size in between)


def _is_batched(tensor: Tensor, x: Tensor) -> bool:
    return tensor.dim() == x.dim() > 1 and tensor.shape[0] != 1


@jit
def normalised(
    y: tl.tensor,
    column: tl.tensor,
    inside: tl.tensor,
    place: tl.tensor,
    channels: tl.tensor,
    eps: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    rms: tl.constexpr,
    weighted: tl.constexpr,
    biased: tl.constexpr,
    scaled: tl.constexpr,
    shifted: tl.constexpr,
) -> tl.tensor:
    """Normalise a row that lies in registers, in float32 and in two passes, and apply weight, bias, scale and shift.

    Lanes that are not inside hold zeros.
    """
    if not rms:
        y = tl.where(inside, y - tl.sum(y, axis=0) / channels, 0.0)
    result = y * tl.rsqrt(tl.sum(y * y, axis=0) / channels + eps)
    if weighted:
        result *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if biased:
        result += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    if scaled:
        result *= 1.0 + tl.load(scale + place, mask=inside, other=0.0).to(tl.float32)
    if shifted:
        result += tl.load(shift + place, mask=inside, other=0.0).to(tl.float32)
    return result
