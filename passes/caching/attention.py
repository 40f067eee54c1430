"""What the attention of a program gives, before gates and residual adds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from graphopt.arguments import packet_of
from graphopt.macs import operator_name
from graphopt.program import Program
from graphopt.regions import SampleFlow

aten = torch.ops.aten

LAYOUT = {
    aten.transpose,
    aten.permute,
    aten.reshape,
    aten.view,
    aten.contiguous,
    aten.clone,
    aten.to,
    aten._to_copy,
    aten.squeeze,
    aten.unsqueeze,
    aten.flatten,
    aten.dropout,
}
PARTS = {aten.split_with_sizes, aten.split, aten.chunk, aten.slice}


@dataclass(frozen=True)
class AttentionValue:
    """One result of an attention.

    Attributes:
        value: name of the node: the output projection where there is one.
        kind: ``self`` where its keys depend on the sample, ``cross`` where they do not.
    """

    value: str
    kind: Literal["self", "cross"]


def attention_values(program: Program, sample: str | None = None) -> tuple[AttentionValue, ...]:
    """Find what every attention gives: its product with the values, through layout and output projection.

    A joint attention gives one value for each stream that it is split into.

    Args:
        program: the program.
        sample: name of the input that changes from step to step; the one most like the output by default.
    """
    flow = SampleFlow(program, sample)
    found: dict[str, AttentionValue] = {}
    for node in flow.dependent:
        key = _key(node)
        if key is None:
            continue
        kind: Literal["self", "cross"] = "self" if flow.depends(key) else "cross"
        for end in _ends(node, projected=False):
            found.setdefault(end.name, AttentionValue(end.name, kind))
    return tuple(found.values())


def _key(node: fx.Node) -> fx.Node | None:
    """The keys of an attention; for one written out, the values, which come from the same place."""
    if operator_name(node) == "aten::scaled_dot_product_attention":
        return node.args[1] if isinstance(node.args[1], fx.Node) else None
    if packet_of(node) not in (aten.matmul, aten.bmm):
        return None
    weights, values = node.args[:2]
    if not isinstance(weights, fx.Node) or not isinstance(values, fx.Node):
        return None
    while packet_of(weights) in LAYOUT and weights.args and isinstance(weights.args[0], fx.Node):
        weights = weights.args[0]
    return values if packet_of(weights) in (aten.softmax, aten._softmax) else None


def _ends(node: fx.Node, *, projected: bool) -> Iterator[fx.Node]:
    """Where the way from an attention ends: before whatever is no layout, no part and no first projection."""
    users = list(node.users)
    if users and all(packet_of(user) in PARTS or _is_item(user) for user in users):
        for user in users:
            yield from _ends(user, projected=projected)
        return
    follower = users[0] if len(users) == 1 else None
    if follower is None or not _goes_on(follower, node, projected=projected):
        yield node
        return
    yield from _ends(follower, projected=projected or packet_of(follower) is aten.linear)


def _goes_on(node: fx.Node, source: fx.Node, *, projected: bool) -> bool:
    if packet_of(node) in LAYOUT:
        return True
    if packet_of(node) is aten.linear:
        return not projected and node.args[0] is source
    scales = packet_of(node) in (aten.div, aten.mul)
    return scales and not any(isinstance(argument, fx.Node) for argument in node.args[1:])


def _is_item(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"
