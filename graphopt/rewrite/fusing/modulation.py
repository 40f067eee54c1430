"""Scale and shift behind a norm, as conditions on timestep and text give them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphopt.arguments import arguments_of, operand_of, packet_of
from graphopt.rewrite.fusing.normalisation import only_reader
from graphopt.rewrite.fusing.site import binary
from graphopt.values import refresh_some, value_of

aten = torch.ops.aten
VIEWS = {
    aten.unsqueeze,
    aten.squeeze,
    aten.slice,
    aten.select,
    aten.reshape,
    aten.expand,
    aten.transpose,
    aten.permute,
}


@dataclass(frozen=True)
class Modulation:
    """What is done with a normalised value.

    Attributes:
        last: gives the result.
        scale: the value is multiplied with 1 + scale; None where it is not.
        shift: what is added then; None where nothing is.
    """

    last: fx.Node
    scale: fx.Node | None = None
    shift: fx.Node | None = None


def modulations(node: fx.Node) -> tuple[Modulation, ...]:
    """The ways to read what follows a normalised value, the most of it first and none of it last.

    Args:
        node: gives the normalised value. A scale is written in its graph where only views of 1 + scale are there.
    """
    plain = Modulation(node)
    product = only_reader(node)
    factor = _other(product, aten.mul, node)
    scale = plain_scale(factor) if factor is not None else None
    if product is None or factor is None or scale is None:
        return (plain,)
    scale = _seen_alike(scale, factor)
    scaled = Modulation(product, scale)
    total = only_reader(product)
    shift = _other(total, aten.add, product)
    if total is None or shift is None:
        return scaled, plain
    return Modulation(total, scale, shift), scaled, plain


def plain_scale(factor: fx.Node) -> fx.Node | None:
    """The scale of which a factor is a view of 1 + scale; None where it is no such factor."""
    while packet_of(factor) in VIEWS:
        factor = operand_of(factor)
    if packet_of(factor) is not aten.add or arguments_of(factor).get("alpha", 1) != 1:
        return None
    scale, one = factor.args[:2]
    if not isinstance(scale, fx.Node) or isinstance(one, fx.Node) or one != 1:
        return None
    return scale if isinstance(value_of(scale), Tensor) else None


def _other(node: fx.Node | None, packet: object, operand: fx.Node) -> fx.Node | None:
    """What a sum or product joins a value with."""
    pair = binary(node, packet) if node is not None else None
    if pair is None or pair[0] is pair[1]:
        return None
    return pair[1] if pair[0] is operand else pair[0]


def _seen_alike(scale: fx.Node, factor: fx.Node) -> fx.Node:
    """The scale through the views through which 1 + scale is seen."""
    views = []
    while packet_of(factor) in VIEWS:
        views.append(factor)
        factor = operand_of(factor)
    for view in reversed(views):
        with view.graph.inserting_before(view):
            scale = view.graph.create_node("call_function", view.target, (scale, *view.args[1:]), dict(view.kwargs))
        refresh_some([scale])
    return scale
