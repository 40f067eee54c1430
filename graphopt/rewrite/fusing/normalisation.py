"""Norms over the last dimension: LayerNorm, RMSNorm, and RMSNorm written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from graphopt.arguments import arguments_of, packet_of
from graphopt.rewrite.fusing.site import binary
from graphopt.values import value_of

aten = torch.ops.aten
ANCHORS = (aten.layer_norm, aten.rms_norm, aten.rsqrt)
"""Operators by which a norm is found."""


@dataclass(frozen=True)
class Norm:
    """A norm over the last dimension.

    Attributes:
        node: gives the normalised value, weight and bias included.
        source: what is normalised.
        readers: those readers of the source that belong to the norm.
        kind: which norm.
        weight: one factor a channel, or None.
        bias: one summand a channel, or None.
        eps: what is added to the variance or to the mean square.
    """

    node: fx.Node
    source: fx.Node
    readers: frozenset[fx.Node]
    kind: Literal["layer", "rms"]
    weight: fx.Node | None
    bias: fx.Node | None
    eps: float


def norm_of(node: fx.Node) -> Norm | None:
    """Read a norm from the operator by which it is found; None where there is none over the last dimension alone."""
    if packet_of(node) is aten.rsqrt:
        return _written_out(node)
    given = arguments_of(node)
    source = given["input"]
    if len(given["normalized_shape"]) != 1:
        return None
    if packet_of(node) is aten.layer_norm:
        return Norm(node, source, frozenset({node}), "layer", given["weight"], given["bias"], float(given["eps"]))
    eps = torch.finfo(value_of(source).dtype).eps if given["eps"] is None else float(given["eps"])
    return Norm(node, source, frozenset({node}), "rms", given["weight"], None, eps)


def only_reader(node: fx.Node) -> fx.Node | None:
    """The one node that reads a value; None where there are others or none."""
    readers = list(node.users)
    return readers[0] if len(readers) == 1 else None


def _written_out(root: fx.Node) -> Norm | None:
    """``source * rsqrt(mean(source ** 2, -1, keepdim=True) + eps)``, with a weight behind it."""
    shifted = root.args[0]
    if not isinstance(shifted, fx.Node) or packet_of(shifted) is not aten.add or not isinstance(shifted.args[1], float):
        return None
    mean = shifted.args[0]
    source = _squared(mean) if isinstance(mean, fx.Node) else None
    product = only_reader(root)
    if source is None or product is None or set(binary(product, aten.mul) or ()) != {source, root}:
        return None
    square = next(user for user in source.users if packet_of(user) is aten.pow)
    inner = [square, mean, shifted]
    if any(only_reader(node) is None for node in inner if isinstance(node, fx.Node)):
        return None
    readers = frozenset({square, product})
    weighted = only_reader(product)
    weight = _weight(product, weighted) if weighted is not None else None
    node = product if weight is None or weighted is None else weighted
    return Norm(node, source, readers, "rms", weight, None, float(shifted.args[1]))


def _squared(mean: fx.Node) -> fx.Node | None:
    """What a node is the mean square of over the last dimension."""
    if packet_of(mean) is not aten.mean:
        return None
    given = arguments_of(mean)
    square = given["self"]
    if list(given.get("dim") or ()) not in ([-1], [value_of(square).ndim - 1]) or not given["keepdim"]:
        return None
    if given["dtype"] is not None or packet_of(square) is not aten.pow or square.args[1] != 2:
        return None
    source = square.args[0]
    return source if isinstance(source, fx.Node) else None


def _weight(product: fx.Node, weighted: fx.Node) -> fx.Node | None:
    """The weight that a normalised value is multiplied with."""
    pair = binary(weighted, aten.mul)
    other = next((node for node in pair or () if node is not product), None)
    if other is None or other.op != "get_attr" or tuple(value_of(other).shape) != tuple(value_of(product).shape[-1:]):
        return None
    return other
