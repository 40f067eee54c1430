"""Where a factor behind an RMS norm fits into the norm's own weight, so that the graph keeps its operators.

Over kept indices alone the mean of squares is ``n / kept`` times that of the masked original, the removed ones being
zero. With ``eps * n / kept`` in place of ``eps`` the norm divides by ``sqrt(n / kept)`` times what the masked original
divides by; ``weight * sqrt(n / kept)`` makes up for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.arguments import arguments_of
from graphopt.dependency.analysis import TensorKey, tensor_key
from graphopt.dependency.graph import DependencyGraph
from graphopt.rewrite.statistics import CASTS

aten = torch.ops.aten
SUMS = frozenset({aten.add.Tensor, aten.add.Scalar})

Scale = tuple[float, float]
"""Factor and shift of a rescaled tensor: ``factor * tensor + shift``."""


@dataclass(frozen=True)
class Gain:
    """An RMS norm whose weight can take a factor.

    Attributes:
        epsilon: the operator that adds the number before the root is taken.
        argument: the name of that number among its arguments.
        value: the number.
        weight: the ``get_attr`` node of the weight.
        reader: the operator that reads it.
        offset: what is added to the weight before it multiplies, 1 where it is stored as a distance from one.
    """

    epsilon: fx.Node
    argument: str
    value: float
    weight: fx.Node
    reader: fx.Node
    offset: float = 0.0


def gain_of(node: fx.Node) -> Gain | None:
    """The gain of an ``rms_norm``, or of the mean of squares in one that is written out; None where there is none."""
    if node.target is aten.rms_norm.default:
        weight = arguments_of(node)["weight"]
        found = isinstance(weight, fx.Node) and weight.op == "get_attr"
        return Gain(node, "eps", epsilon_of(node), weight, node) if found else None
    return _written_out(node)


def epsilon_of(node: fx.Node) -> float:
    """What an ``rms_norm`` adds to the mean of squares; by default the rounding of the type that it computes in."""
    epsilon = arguments_of(node)["eps"]
    wide = node.meta["val"].dtype == torch.float64
    return torch.finfo(torch.float64 if wide else torch.float32).eps if epsilon is None else float(epsilon)


def common_scales(graph: DependencyGraph, gains: Mapping[fx.Node, tuple[Gain, float]]) -> dict[str, Scale]:
    """The tensors that can be rescaled, by first name: all that read them want the same.

    Args:
        graph: analysis of the original.
        gains: by statistic the gain and the factor that its weight is to take.
    """
    wanted: dict[fx.Node, list[tuple[Gain, float]]] = {}
    for gain, factor in gains.values():
        wanted.setdefault(gain.weight, []).append((gain, factor))
    found: dict[str, Scale] = {}
    for readers in _readers(graph).values():
        wishes = {(factor, gain.offset) for node in readers for gain, factor in wanted.get(node, [])}
        known = {gain.reader for node in readers for gain, _ in wanted.get(node, [])}
        if len(wishes) == 1 and all(known.issuperset(node.users) for node in readers):
            factor, offset = wishes.pop()
            found[graph.names[str(readers[0].target)]] = (factor, (factor - 1) * offset)
    return found


def _readers(graph: DependencyGraph) -> dict[TensorKey, list[fx.Node]]:
    """The ``get_attr`` nodes of every tensor that is read."""
    found: dict[TensorKey, list[fx.Node]] = {}
    for node in graph.analysis.order:
        tensor = graph.tensors.get(str(node.target)) if node.op == "get_attr" else None
        if isinstance(tensor, Tensor) and node.users:
            found.setdefault(tensor_key(tensor), []).append(node)
    return found


# ------------------------------------------------------------------ written out


def _written_out(mean: fx.Node) -> Gain | None:
    """``x * rsqrt(mean + eps)``, cast or not, times a weight."""
    total = _only(mean.users)
    if total is None or total.target not in SUMS or not _adds_number(total):
        return None
    value = _scaled_by_root(total)
    reader = None if value is None else _only(value.users)
    while value is not None and reader is not None and reader.target in CASTS and reader.args[0] is value:
        value, reader = reader, _only(reader.users)
    if value is None or reader is None or reader.target is not aten.mul.Tensor:
        return None
    found = _weight(reader, value)
    if found is None:
        return None
    weight, first, offset = found
    return Gain(total, "other", float(arguments_of(total)["other"]), weight, first, offset)


def _adds_number(node: fx.Node) -> bool:
    arguments = arguments_of(node)
    return isinstance(arguments["other"], int | float) and arguments["alpha"] == 1


def _scaled_by_root(total: fx.Node) -> fx.Node | None:
    """The product with one over the root of a sum, or the quotient by its root."""
    root = _only(total.users)
    if root is None:
        return None
    inverse = root.target is aten.rsqrt.default
    inverse = inverse or (root.target is aten.pow.Tensor_Scalar and arguments_of(root)["exponent"] == -0.5)
    scaled = _only(root.users)
    if scaled is None:
        return None
    if inverse:
        return scaled if scaled.target is aten.mul.Tensor else None
    divides = root.target is aten.sqrt.default and scaled.target is aten.div.Tensor
    return scaled if divides and scaled.args[1] is root and scaled.args[0] is not root else None


def _weight(product: fx.Node, value: fx.Node) -> tuple[fx.Node, fx.Node, float] | None:
    """The stored weight that a product multiplies a value by, its reader, and what is added to it on the way."""
    others = [item for item in product.all_input_nodes if item is not value]
    if len(others) != 1:
        return None
    node, reader, offset = others[0], product, 0.0
    while node.op == "call_function" and _only(node.users) is reader:
        step = _step(node)
        if step is None:
            return None
        offset += step
        node, reader = node.all_input_nodes[0], node
    return (node, reader, offset) if node.op == "get_attr" else None


def _step(node: fx.Node) -> float | None:
    """What an operator between a weight and its product adds; None where it does something else."""
    if len(node.all_input_nodes) != 1:
        return None
    if node.target in CASTS:
        return 0.0
    if node.target not in SUMS:
        return None
    numbers = [item for item in node.args if isinstance(item, int | float)]
    return float(numbers[0]) if len(numbers) == 1 and not node.kwargs else None


def _only(users: Iterable[Any]) -> fx.Node | None:
    """The only one of some nodes."""
    found = list(users)
    return found[0] if len(found) == 1 else None
