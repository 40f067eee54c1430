"""Norms over the last dimension: LayerNorm, RMSNorm, and RMSNorm written out, each also between casts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import fx

from graphopt.arguments import arguments_of, operand_of, packet_of
from graphopt.rewrite.fusing.site import binary
from graphopt.values import value_of

aten = torch.ops.aten
ANCHORS = (aten.layer_norm, aten.rms_norm, aten.rsqrt)
"""Operators by which a norm is found."""

CASTS = {aten.to, aten._to_copy}
HALVES = (torch.float16, torch.bfloat16)


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
        wide: whether it is computed in float32, between casts from the source's dtype and back. A weight of an RMSNorm
            is then multiplied before the cast back if it is in float32, behind it if it is not.
    """

    node: fx.Node
    source: fx.Node
    readers: frozenset[fx.Node]
    kind: Literal["layer", "rms"]
    weight: fx.Node | None
    bias: fx.Node | None
    eps: float
    wide: bool = False


def norm_of(node: fx.Node) -> Norm | None:
    """Read a norm from the operator by which it is found; None where there is none over the last dimension alone."""
    if packet_of(node) is aten.rsqrt:
        return _written_out(node)
    given = arguments_of(node)
    source, weight, bias = given["input"], given["weight"], given.get("bias")
    if len(given["normalized_shape"]) != 1:
        return None
    readers = frozenset({node})
    if packet_of(node) is aten.layer_norm:
        return _with_casts(Norm(node, source, readers, "layer", weight, bias, float(given["eps"])))
    if weight is not None and value_of(weight).dtype != value_of(source).dtype:
        return None
    eps = torch.finfo(value_of(source).dtype).eps if given["eps"] is None else float(given["eps"])
    return _with_casts(Norm(node, source, readers, "rms", weight, None, eps))


def only_reader(node: fx.Node) -> fx.Node | None:
    """The one node that reads a value; None where there are others or none."""
    readers = list(node.users)
    return readers[0] if len(readers) == 1 else None


def before_cast(node: fx.Node) -> fx.Node:
    """What a value was before it was cast to another dtype; the value itself where it was not."""
    operand = operand_of(node)
    return operand if packet_of(node) in CASTS and isinstance(operand, fx.Node) else node


def _with_casts(norm: Norm) -> Norm | None:
    """A norm together with the casts to float32 and back between which it stands, where there are any.

    None where there is a cast before it and none behind it.
    """
    inner, dtype = before_cast(norm.source), value_of(norm.source).dtype
    if inner is norm.source or dtype != torch.float32 or value_of(inner).dtype not in HALVES:
        return norm
    back = only_reader(norm.node)
    if back is None or before_cast(back) is not norm.node or value_of(back).dtype != value_of(inner).dtype:
        return None
    readers = norm.readers - {*norm.source.users}
    if set(norm.source.users) <= norm.readers:
        readers |= {norm.source}
    weight, bias = norm.weight, norm.bias
    if norm.kind == "layer":
        weight, bias = (before_cast(one) if one is not None else None for one in (weight, bias))
    return replace(norm, node=back, source=inner, readers=readers, weight=weight, bias=bias, wide=True)


def _written_out(root: fx.Node) -> Norm | None:
    """``source * rsqrt(mean(source ** 2, -1, keepdim=True) + eps)``, with a weight behind it."""
    shifted = root.args[0]
    if not isinstance(shifted, fx.Node) or packet_of(shifted) is not aten.add or not isinstance(shifted.args[1], float):
        return None
    mean = shifted.args[0]
    source = _squared(mean) if isinstance(mean, fx.Node) else None
    product = only_reader(root)
    pair = binary(product, aten.mul) if product is not None else None
    if source is None or product is None or pair is None or root not in pair:
        return None
    if not {*pair} <= {root, source, before_cast(source)}:
        return None
    square = next(user for user in source.users if packet_of(user) is aten.pow)
    inner = [square, mean, shifted]
    if any(only_reader(node) is None for node in inner if isinstance(node, fx.Node)):
        return None
    readers = frozenset({square, product})
    eps = float(shifted.args[1])
    norm = _with_casts(_weighted(Norm(product, source, readers, "rms", None, None, eps)))
    return norm if norm is None or norm.weight is not None else _weighted(norm)


def _weighted(norm: Norm) -> Norm:
    """A norm with the product with a weight that follows it, where one does."""
    weighted = only_reader(norm.node)
    weight = _weight(norm.node, weighted) if weighted is not None else None
    return norm if weight is None or weighted is None else replace(norm, node=weighted, weight=weight)


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
    if other is None or before_cast(other).op != "get_attr" or value_of(other).dtype != value_of(product).dtype:
        return None
    if tuple(value_of(other).shape) != tuple(value_of(product).shape[-1:]):
        return None
    return other
