"""The separable twin: statistics replaced by maps that act on every index by itself.

A normalisation over a pruned axis has another mean and another variance afterwards; everything else about the
rewrite is exact. The twin replaces just these statistics on both sides, so that the rest can be proved. A
normalisation becomes a division by one number, found when the original is run and used again by both sides, so that
deep models stay finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.dependency.ties import named_arguments

aten = torch.ops.aten


@dataclass
class Statistic:
    """What the twins of one statistic share, in every program that is compared.

    Attributes:
        count: number of elements that the original statistic runs over.
        scale: what a normalisation divides by: the root mean square of what its first run is given.
    """

    count: int
    scale: float | None = None

    def normalise(self, value: Tensor) -> Tensor:
        """Divide by the scale, which the first call finds."""
        if self.scale is None:
            found = float(value.detach().to(torch.float64).square().mean().sqrt())
            self.scale = found if math.isfinite(found) and found > 0 else 1.0
        return value / self.scale


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
    aten.amax.default: _mean,
    aten.amin.default: _mean,
    aten.max.default: _mean,
    aten.min.default: _mean,
}
NORMS = {target for target, twin in TWINS.items() if twin in (_last, _channels)}


def replace_by_twin(node: fx.Node, statistic: Statistic) -> None:
    """Make a statistic separable, in place.

    Args:
        node: an operator of ``TWINS``.
        statistic: the same for every program that is compared, the original first.
    """
    twin, norms = TWINS[node.target], node.target in NORMS
    arguments = named_arguments(node)
    value = arguments.pop("input", None)
    value = arguments.pop("self") if value is None else value

    def apply(operand: Tensor, given: Mapping[str, Any]) -> Any:
        return twin(statistic.normalise(operand) if norms else operand, given, statistic.count)

    node.target = apply
    node.args = (value, arguments)
    node.kwargs = {}
