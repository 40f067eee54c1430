"""Which operators keep the operands of a concatenation apart: norms by channel or group, elementwise ones, and sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.aliasing import is_mutating
from graphopt.arguments import arguments_of, operand_of, packet_of
from graphopt.errors import PlanError
from graphopt.values import value_of

aten = torch.ops.aten

SUMS: dict[Any, dict[str, int]] = {
    aten.conv1d: {"weight": 1},
    aten.conv2d: {"weight": 1},
    aten.conv3d: {"weight": 1},
    aten.conv_transpose1d: {"weight": 0},
    aten.conv_transpose2d: {"weight": 0},
    aten.conv_transpose3d: {"weight": 0},
    aten.linear: {"weight": 1},
}
"""Operators that sum over the channels of their input, with the dimension of the weight that the sum runs over."""

NORMS: dict[Any, dict[str, int]] = {
    aten.group_norm: {"weight": 0, "bias": 0},
    aten.batch_norm: {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0},
}
"""Operators that treat channels, or groups of them, apart, with the dimension of their tensors that holds channels."""

UNTAGGED = {aten.to, aten._to_copy, aten.contiguous, aten.hardswish}
"""Operators that treat every element alone and lack torch's tag for it."""


@dataclass(frozen=True)
class Join:
    """A concatenation of two values.

    Attributes:
        concat: the concatenation.
        operands: what it joins.
        dim: along which dimension.
        widths: size of each operand there.
    """

    concat: fx.Node
    operands: tuple[fx.Node, fx.Node]
    dim: int
    widths: tuple[int, int]


def join_of(concat: fx.Node) -> Join:
    """Read a concatenation.

    Raises:
        PlanError: it joins not just two different values, or their sizes are not fixed.
    """
    operands, value = operand_of(concat), value_of(concat)
    if not isinstance(operands, list | tuple) or len(operands) != 2 or operands[0] is operands[1]:
        raise PlanError(f"{concat.name} is no concatenation of two different values")
    dim = int(arguments_of(concat)["dim"]) % value.ndim
    widths = tuple(value_of(operand).shape[dim] for operand in operands)
    if not all(type(width) is int for width in widths):
        raise PlanError(f"{concat.name} joins a dimension whose size is not fixed")
    return Join(concat, (operands[0], operands[1]), dim, (widths[0], widths[1]))


def require_apart(node: fx.Node, source: fx.Node, join: Join) -> None:
    """Refuse an operator in which the operands of a concatenation meet otherwise than in a sum over channels.

    Args:
        node: the operator.
        source: what it reads of the concatenation, or of what elementwise operators and norms made of it.
        join: the concatenation.

    Raises:
        PlanError: they meet.
    """
    packet = packet_of(node)
    if packet in SUMS:
        _require_sum(node, source, join)
    elif packet in NORMS:
        _require_norm(node, source, join)
    elif not _is_elementwise(node, source):
        raise PlanError(f"{node.name} ({packet or node.op}) may mix the operands of {join.concat.name}")


def sliced_tensors(node: fx.Node) -> dict[str, tuple[fx.Node, int]]:
    """The tensors of a norm or a sum that have an entry for every channel, with its dimension, by argument."""
    dims = SUMS.get(packet_of(node)) or NORMS.get(packet_of(node)) or {}
    arguments = arguments_of(node) if dims else {}
    return {name: (arguments[name], dim) for name, dim in dims.items() if isinstance(arguments[name], fx.Node)}


def _require_sum(node: fx.Node, source: fx.Node, join: Join) -> None:
    """A sum over just the dimension that the concatenation joins."""
    _require_input(node, source)
    weight, value = value_of(arguments_of(node)["weight"]), value_of(node)
    is_linear = packet_of(node) is aten.linear
    channels = value.ndim - (1 if is_linear else weight.ndim - 1)
    if weight.ndim < 2 or join.dim != channels:
        raise PlanError(f"{node.name} sums over another dimension than the one that {join.concat.name} joins")
    if int(arguments_of(node).get("groups", 1)) != 1:
        raise PlanError(f"{node.name} sums over groups of channels")


def _require_norm(node: fx.Node, source: fx.Node, join: Join) -> None:
    """A norm whose statistics are those of a channel, or of groups that lie in one operand."""
    _require_input(node, source)
    if join.dim != 1:
        raise PlanError(f"{node.name} takes its statistics over the dimension that {join.concat.name} joins")
    if packet_of(node) is not aten.group_norm:
        return
    size = sum(join.widths) // int(arguments_of(node)["num_groups"])
    if join.widths[0] % size:
        raise PlanError(
            f"the groups of {node.name} hold {size} channels each, and the {join.widths[0]} of {join.operands[0].name} "
            f"do not fill whole ones, so one group holds channels of both operands of {join.concat.name}"
        )


def _require_input(node: fx.Node, source: fx.Node) -> None:
    if operand_of(node) is not source or any(tensor is source for tensor, _ in sliced_tensors(node).values()):
        raise PlanError(f"{node.name} reads {source.name} otherwise than as its input")


def _is_elementwise(node: fx.Node, source: fx.Node) -> bool:
    """Whether an operator computes each element from the same element of one value."""
    if not isinstance(node.target, torch._ops.OpOverload) or is_mutating(node.target):
        return False
    tagged = torch.Tag.pointwise in node.target.tags and torch.Tag.nondeterministic_seeded not in node.target.tags
    alone = node.all_input_nodes == [source] and operand_of(node) is source
    return alone and isinstance(value_of(node), Tensor) and (tagged or packet_of(node) in UNTAGGED)
