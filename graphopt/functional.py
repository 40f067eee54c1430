"""Writes in place become ordinary operators where no other reader could tell the difference."""

from typing import Any

import torch
from torch import fx

from graphopt.aliasing import Aliases, written
from graphopt.arguments import operand_of
from graphopt.values import fake_call, refresh_some, value_of

aten = torch.ops.aten

KEPT = {aten.copy_, aten.fill_, aten.zero_, aten.set_, aten.resize_, aten.resize_as_, aten.detach_}


def make_functional(graph_module: fx.GraphModule) -> None:
    """Replace `op_` by `op` wherever the value written to is this graph's own and nobody else reads it later.

    Args:
        graph_module: Every node carries its `meta["val"]`, and does so afterwards.
    """
    aliases = Aliases(graph_module)
    for node in list(graph_module.graph.nodes):
        functional = _functional_overload(node.target)
        if functional is not None and _is_private(aliases, node) and _gives_the_same(node, functional):
            _replace(aliases, node, functional)


def _functional_overload(target: Any) -> Any:
    """Return the out-of-place twin of an operator that writes in place, None where there is none."""
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable or target.overloadpacket in KEPT:
        return None
    if torch.Tag.nondeterministic_seeded in target.tags:
        return None
    namespace, _, name = target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    twins = (getattr(packet, overload) for overload in packet.overloads()) if packet and name.endswith("_") else ()
    return next((twin for twin in twins if _takes_the_same(twin._schema, target._schema)), None)


def _takes_the_same(functional: Any, in_place: Any) -> bool:
    """Tell whether a schema has another's arguments and writes to none: `pow_.Scalar` goes with `pow.Tensor_Scalar`."""
    if functional.is_mutable or any(result.alias_info for result in functional.returns):
        return False
    one, other = ([(a.name, str(a.type)) for a in schema.arguments] for schema in (functional, in_place))
    return one == other


def _is_private(aliases: Aliases, node: fx.Node) -> bool:
    """Tell whether the first operand alone is written to, is inner, and has no alias that is read after the write."""
    target = node.args[0]
    if not isinstance(target, fx.Node) or list(written(aliases.graph_module, node)) != [target]:
        return False
    if not isinstance(value_of(target), torch.Tensor) or not aliases.is_inner(target):
        return False
    moment = aliases.order[node]
    others = (holder for holder in aliases.holders(target) if holder is not target and aliases.order[holder] < moment)
    return not any(aliases.order[user] > moment for holder in others for user in holder.users)


def _gives_the_same(node: fx.Node, functional: Any) -> bool:
    result, expected = fake_call(functional, node), value_of(node)
    return bool(result.dtype == expected.dtype and result.shape == expected.shape)


def _replace(aliases: Aliases, node: fx.Node, functional: Any) -> None:
    target = operand_of(node)
    node.target = functional
    for user in list(target.users):
        if aliases.order[user] > aliases.order[node]:
            user.replace_input_with(target, node)
    refresh_some(aliases.part(node))
