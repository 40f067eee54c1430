"""Arguments of an operator's node by the names of its schema."""

from typing import Any

import torch
from torch import fx


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Return every argument of an ATen call by its schema's name, defaults included.

    Args:
        node: Its target is a `torch._ops.OpOverload`.
    """
    bound = {}
    for place, argument in enumerate(schema_of(node).arguments):
        default = argument.default_value if argument.has_default_value() else None
        bound[argument.name] = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, default)
    return bound


def schema_of(node: fx.Node) -> Any:
    """Return the schema of an ATen call."""
    return getattr(node.target, "_schema", None)


def nodes_in(arguments: Any) -> list[fx.Node]:
    """Return the nodes among nested arguments, in order, one that is there twice both times."""
    found: list[fx.Node] = []
    fx.map_arg(arguments, found.append)
    return found


def operand_of(node: fx.Node) -> Any:
    """Return the first argument of a call, None where it has none."""
    return node.args[0] if node.args else None


def packet_of(node: fx.Node) -> Any:
    """Return the operator of a call without its overload, such as `aten.add`; None where it is no such operator."""
    return node.target.overloadpacket if isinstance(node.target, torch._ops.OpOverload) else None
