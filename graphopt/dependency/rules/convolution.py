"""Convolutions, grouped and depthwise ones included, and their transposes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.terms import Dim, all_frozen, dim_size
from graphopt.dependency.ties import Dims, Ties, concrete

KERNEL = "an axis of a convolution's kernel"
SPATIAL = "a spatial axis"


def _spatial(t: Ties, first: int) -> Dims:
    """Output positions: those of the input where windows are one position or as many as positions, frozen otherwise."""
    out: Dims = []
    for axis, dim in enumerate(t.dims("input")[first:]):
        size = t.out_shape[first + axis]
        if is_pointwise(t, axis, t.shape("weight")[2 + axis]):
            out.append(dim)
        elif dim_size(dim) == size and not all_frozen(dim):
            t.spread("input", first + axis)
            out.append(dim)
        else:
            t.freeze(dim, SPATIAL)
            out.append(t.frozen(size, SPATIAL))
    return out


def is_pointwise(t: Ties, axis: int, window: object) -> bool:
    """Whether each output position along a spatial axis is one input position by itself, in order.

    Args:
        t: a convolution or a pooling.
        axis: counted from the first spatial one.
        window: how many positions a window has there.
    """
    stride = t["stride"] or window  # where a pooling was given none, its windows lie side by side
    paddings = [option_along(t[name], axis) for name in ("padding", "output_padding") if name in t.names()]
    return window == 1 and option_along(stride, axis) == 1 and all(step in (0, "same", "valid") for step in paddings)


def option_along(option: object, axis: int) -> object:
    """An option of a spatial axis; one value may stand for all axes."""
    if not isinstance(option, list | tuple):
        return option
    return option[axis] if len(option) > 1 else option[0]


def _kernel(t: Ties) -> Dims:
    weight = t.dims("weight")
    for dim in weight[2:]:
        t.freeze(dim, KERNEL)
    return weight[:2]


def _roles(t: Ties, channels: int, out: Dim, read: int) -> None:
    t.contract("input", channels, ("weight", read))
    if t.is_weight("weight"):
        t.produce(out, "channel")


def convolution(t: Ties) -> Dims:
    """``input: (N, C, ...)``, ``weight: (O, C // groups, ...)``, ``bias: (O,)``; N may be absent."""
    dims, (out, inner) = t.dims("input"), _kernel(t)
    channels = len(dims) - len(t.dims("weight")) + 1
    groups = concrete(t["groups"])
    if groups == 1:
        t.tie(dims[channels], inner)
    else:
        lead, nested = t.split(dims[channels], dim_size(dims[channels]) // groups)
        t.tie(nested, inner)
        out_lead, _ = t.split(out, dim_size(out) // groups)
        t.tie(lead, out_lead)
        t.bake("groups", lead)
    if t.has("bias"):
        t.tie(t.dims("bias")[0], out)
    _roles(t, channels, out, 1)
    return [t.resolve(dim) for dim in (*dims[:channels], out, *_spatial(t, channels + 1))]


def transposed(t: Ties) -> Dims:
    """``input: (N, C, ...)``, ``weight: (C, O // groups, ...)``, ``bias: (O,)``; N may be absent."""
    dims, (source, inner) = t.dims("input"), _kernel(t)
    channels = len(dims) - len(t.dims("weight")) + 1
    t.tie(dims[channels], source)
    out = inner
    groups = concrete(t["groups"])
    if groups > 1:
        lead, _ = t.split(source, dim_size(source) // groups)
        out = lead + inner
        t.bake("groups", lead)
    if t.has("bias"):
        t.tie(t.dims("bias")[0], out)
    _roles(t, channels, out, 0)
    return [t.resolve(dim) for dim in (*dims[:channels], out, *_spatial(t, channels + 1))]


def _both_ways(x: Tensor, there: Tensor, back: Tensor, bias: Tensor) -> Tensor:
    """A convolution and a transposed one, which are one operator."""
    y = torch.convolution(x, there, None, [1], [1], [1], False, [0], 1)
    return torch.convolution(y, back, bias, [1], [1], [1], True, [0], 1)


CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {
    1: nn.functional.conv1d,
    2: nn.functional.conv2d,
    3: nn.functional.conv3d,
}
TRANSPOSED: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "aten.conv_transpose1d.default": (1, nn.functional.conv_transpose1d),
    "aten.conv_transpose2d.input": (2, nn.functional.conv_transpose2d),
    "aten.conv_transpose3d.input": (3, nn.functional.conv_transpose3d),
}
for _rank, _call in CONVOLUTIONS.items():
    _sample = Sample(
        lambda x, weight, bias, call=_call: call(x, weight, bias, padding=1),
        ((6, *(4,) * _rank),),
        {"weight": (8, 6, *(3,) * _rank), "bias": (8,)},
    )
    _grouped = Sample(
        lambda x, weight, bias, call=_call: call(x, weight, bias, padding="same", groups=2),
        ((6, *(4,) * _rank),),
        {"weight": (8, 3, *(3,) * _rank), "bias": (8,)},
    )
    coupling_rule(f"aten.conv{_rank}d.default", sample=_sample, zeros="affine")(convolution)
    coupling_rule(f"aten.conv{_rank}d.padding", sample=_grouped, zeros="affine")(convolution)
coupling_rule(
    "aten.convolution.default",
    sample=Sample(_both_ways, ((6, 4),), {"there": (8, 6, 3), "back": (8, 6, 3), "bias": (6,)}),
)(lambda t: transposed(t) if t["transposed"] else convolution(t))
for _target, (_rank, _call) in TRANSPOSED.items():
    _sample = Sample(
        lambda x, weight, bias, call=_call: call(x, weight, bias, stride=2, groups=2),
        ((6, *(3,) * _rank),),
        {"weight": (6, 4, *(2,) * _rank), "bias": (8,)},
    )
    coupling_rule(_target, sample=_sample)(transposed)
