"""A quick look at the weights: where no slice of any of them is zero, nothing can be proved dead."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import Tensor, fx

from graphopt.backend.arrival import Arrival, Kind

ADDED: Mapping[str, tuple[int | str, ...]] = {
    "linear": (2, "bias"),
    "conv1d": (2, "bias"),
    "conv2d": (2, "bias"),
    "conv3d": (2, "bias"),
    "conv_transpose1d": (2, "bias"),
    "conv_transpose2d": (2, "bias"),
    "conv_transpose3d": (2, "bias"),
    "batch_norm": (1, 2, 4, "running_mean", "running_var", "bias"),
    "layer_norm": (3, "bias"),
    "group_norm": (3, "bias"),
    "add": (0, 1),
    "iadd": (0, 1),
    "add_": (0, 1),
}
"""Operands that are added or subtracted, by operator: a zero there is like any other number."""


def may_hold_dead(arrival: Arrival, tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether any parameter or buffer, or product of two, is zero on a whole slice along some dimension.

    Args:
        arrival: The graph.
        tensors: Its parameters and buffers by name.
    """
    nodes = {place.node: tensors[place.name] for place in arrival.places if place.kind is Kind.STATIC}
    counted = [tensor for node, tensor in nodes.items() if not all(_is_added(node, user) for user in node.users)]
    return any(map(has_zero_slice, counted)) or any(map(has_zero_slice, _products(nodes)))


def has_zero_slice(tensor: Tensor) -> bool:
    """Tell whether a tensor of numbers that are no indices is zero on a whole slice along some dimension."""
    if not (tensor.is_floating_point() or tensor.dtype == torch.bool) or not tensor.numel():
        return False
    zero = tensor.detach() == 0
    if tensor.ndim < 2 or not bool(zero.any()):
        return bool(zero.any())
    others = [[other for other in range(tensor.ndim) if other != dim] for dim in range(tensor.ndim)]
    return any(bool(torch.amin(zero, dim=dims).any()) for dims in others)


def _is_added(node: fx.Node, user: fx.Node) -> bool:
    """Tell whether an operator only adds a value, or subtracts it."""
    places = ADDED.get(getattr(user.target, "__name__", str(user.target)), ())
    found = [place for place, value in enumerate(user.args) if value is node]
    named = [name for name, value in user.kwargs.items() if value is node]
    return bool(found or named) and all(place in places for place in (*found, *named))


def _products(nodes: Mapping[fx.Node, Tensor]) -> list[Tensor]:
    """Return the products of two parameters or buffers both of which hold zeros, such as a weight and its mask."""
    first = next(iter(nodes), None)
    found = []
    for node in () if first is None else first.graph.nodes:
        factors = [nodes[value] for value in node.args if isinstance(value, fx.Node) and value in nodes]
        if len(factors) == 2 and node.target in (operator.mul, torch.mul, "mul") and all(map(_holds_zero, factors)):
            found.append(factors[0].detach() * factors[1].detach())
    return found


def _holds_zero(tensor: Tensor) -> bool:
    return bool((tensor.detach() == 0).any())
