"""Widths of matrix products that a device computes slowly, because they are no multiple of what it takes at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from graphopt.alignment import alignment, next_multiple, preferred_multiple, units_step
from graphopt.arguments import arguments_of
from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.macs import FORMULAS, operator_name
from graphopt.values import hint, value_of

TARGETS = {"cuda": "a GPU", "cpu": "ONNX Runtime and torch on this CPU"}
"""Kinds of devices that widths are looked at for, with what they are called."""


@dataclass(frozen=True)
class OddWidth:
    """A width that is no multiple of what a device takes at a time.

    Attributes:
        size: The width.
        dtype: Type of the elements, such as ``float16``.
        target: Kind of the device, a key of `TARGETS`.
        multiple: What the width should be a multiple of.
        reason: Why, in one clause.
        places: Tensors and dimensions that have it, such as ``head.weight:0``; of attention the node.
        down: The next multiple below.
        up: The next multiple above.
    """

    size: int
    dtype: str
    target: str
    multiple: int
    reason: str
    places: tuple[str, ...]
    down: int
    up: int


@dataclass(frozen=True)
class _Width:
    place: str
    size: int
    dtype: torch.dtype


def odd_widths(graph: DependencyGraph) -> tuple[OddWidth, ...]:
    """Return the widths of a program's products that slow a device, those in most places first.

    A width smaller than one multiple is left out: there is nothing to round it down to.

    Args:
        graph: Analysis of the program.
    """
    found: dict[tuple[int, torch.dtype, str], dict[str, None]] = {}
    for width in dict.fromkeys(_widths(graph)):
        for target in TARGETS:
            multiple = preferred_multiple(width.dtype, target)
            if width.size > multiple and width.size % multiple:
                found.setdefault((width.size, width.dtype, target), {})[width.place] = None
    ordered = sorted(found.items(), key=lambda entry: (-len(entry[1]), -entry[0][0]))
    return tuple(_odd_width(*key, tuple(places)) for key, places in ordered)


def unit_steps(graph: DependencyGraph, group: Group) -> Mapping[str, int]:
    """Return for each target of what the kept units of an axis should be a multiple.

    It makes the axis' own share of every width a multiple; where that takes more than half of the units the axis is
    too small to be rounded, and the step is 1.

    Args:
        graph: Analysis of the program.
        group: The axis.
    """
    steps = {}
    for target in TARGETS:
        step = 1
        for member in group.members:
            tensor = graph.tensors[member.tensor]
            if isinstance(tensor, nn.Parameter) and tensor.ndim > 1:
                per_unit = member.indices().shape[1]
                step = math.lcm(step, units_step(preferred_multiple(tensor.dtype, target), per_unit))
        steps[target] = step if 2 * step <= group.size else 1
    return steps


def _odd_width(size: int, dtype: torch.dtype, target: str, places: tuple[str, ...]) -> OddWidth:
    wanted = alignment(dtype, target)
    up = next_multiple(size, wanted.multiple)
    name = str(dtype).removeprefix("torch.")
    return OddWidth(size, name, target, wanted.multiple, wanted.reason, places, up - wanted.multiple, up)


def _widths(graph: DependencyGraph) -> Iterator[_Width]:
    for node in graph.analysis.order:
        name = operator_name(node)
        if name == "aten::scaled_dot_product_attention":
            yield from _of_attention(node)
        elif name in FORMULAS:
            yield from _of_weights(graph, node)


def _of_weights(graph: DependencyGraph, node: fx.Node) -> Iterator[_Width]:
    """Widths of the matrices that a product has as weights; a depthwise convolution has none."""
    arguments = arguments_of(node)
    groups, is_convolution = int(arguments.get("groups", 1)), "groups" in arguments
    for operand in node.all_input_nodes:
        tensor = graph.tensors.get(str(operand.target)) if operand.op == "get_attr" else None
        if not isinstance(tensor, nn.Parameter) or tensor.ndim < 2 or (tensor.ndim > 2 and not is_convolution):
            continue
        rows, columns = tensor.shape[:2]
        if groups == 1 or columns > 1:
            name = graph.names[str(operand.target)]
            yield _Width(f"{name}:0", rows // groups, tensor.dtype)
            yield _Width(f"{name}:1", columns, tensor.dtype)


def _of_attention(node: fx.Node) -> Iterator[_Width]:
    """Features of a head, of the queries and keys and of the values."""
    for operand in node.args[:3]:
        value = value_of(operand)
        if isinstance(value, Tensor):
            yield _Width(node.name, hint(value.shape[-1]), value.dtype)
