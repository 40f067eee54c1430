"""The separable twin: statistics replaced by maps that act on every index by itself.

A normalisation over a pruned axis has another mean and another variance afterwards; everything else about the
rewrite is exact. The twin replaces just these statistics on both sides, so that the rest can be proved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.dependency.ties import named_arguments

aten = torch.ops.aten


def _last(value: Tensor, arguments: Mapping[str, Any], _: int) -> Tensor:
    """``x * weight + bias`` over the last dimensions."""
    weight, bias = arguments.get("weight"), arguments.get("bias")
    value = value if weight is None else value * weight
    return value if bias is None else value + bias


def _channels(value: Tensor, arguments: Mapping[str, Any], _: int) -> Tensor:
    """``x * weight + bias`` over dimension 1."""
    shape = (1, -1, *(1,) * (value.ndim - 2))
    for name, combine in (("weight", torch.mul), ("bias", torch.add)):
        parameter = arguments.get(name)
        value = value if parameter is None else combine(value, parameter.reshape(shape))
    return value


def _mean(value: Tensor, arguments: Mapping[str, Any], count: int) -> Tensor:
    return _total(value, arguments) / count


def _square(value: Tensor, arguments: Mapping[str, Any], count: int) -> Tensor:
    return _total(value * value, arguments) / count


def _sum(value: Tensor, arguments: Mapping[str, Any], _: int) -> Tensor:
    return _total(value, arguments)


def _total(value: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    dim = arguments.get("dim")
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        dim = list(range(value.ndim))
    return value.sum(dim, keepdim=bool(arguments.get("keepdim", False)))


def _square_and_mean(value: Tensor, arguments: Mapping[str, Any], count: int) -> tuple[Tensor, Tensor]:
    return _square(value, arguments, count), _mean(value, arguments, count)


Twin = Callable[[Tensor, Mapping[str, Any], int], Any]
TWINS: dict[Any, Twin] = {
    aten.layer_norm.default: _last,
    aten.rms_norm.default: _last,
    aten.group_norm.default: _channels,
    aten.batch_norm.default: _channels,
    aten.instance_norm.default: _channels,
    aten.mean.dim: _mean,
    aten.mean.default: _mean,
    aten.var.correction: _square,
    aten.var.dim: _square,
    aten.var.default: _square,
    aten.std.correction: _square,
    aten.std.dim: _square,
    aten.std.default: _square,
    aten.var_mean.correction: _square_and_mean,
    aten.amax.default: _sum,
    aten.amin.default: _sum,
    aten.max.default: _sum,
    aten.min.default: _sum,
}


def replace_by_twin(node: fx.Node, count: int) -> None:
    """Make a statistic separable, in place.

    Args:
        node: an operator of ``TWINS``.
        count: number of elements that the original statistic runs over.
    """
    twin = TWINS[node.target]
    arguments = named_arguments(node)
    value = arguments.pop("input", None)
    value = arguments.pop("self") if value is None else value

    def apply(operand: Tensor, given: Mapping[str, Any]) -> Any:
        return twin(operand, given, count)

    node.target = apply
    node.args = (value, arguments)
    node.kwargs = {}
