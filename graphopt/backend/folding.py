"""Values computed from parameters alone that the graph also returns, such as a weight times its mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.aliasing import is_mutating


def fold_returned(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Let operators read what a returned value of parameters alone is now; the graph still computes and returns it.

    `torch.nn.utils.prune` and its kin compute a weight before each call and leave it on the module, so it leaves the
    graph whole; what reads it inside is free to be sliced then.

    Args:
        graph: The graph; it reads tensors as attributes.
        tensors: Parameters and buffers by name.

    Returns:
        The values by the new names under which they are read.
    """
    output = graph.output_node()
    fixed = _fixed(graph, tensors)
    folded: dict[str, Tensor] = {}
    for node in output.all_input_nodes:
        readers = [user for user in node.users if user is not output and user not in fixed]
        if node not in fixed or node.op != "call_function" or not readers:
            continue
        name = f"{node.name}_folded"
        with graph.inserting_after(node):
            read = graph.create_node("get_attr", name)
        read.meta = {"val": node.meta["val"]}
        folded[name] = _evaluate(node, tensors, {})
        for user in readers:
            user.replace_input_with(node, read)
    return folded


def _fixed(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> set[fx.Node]:
    """Values that follow from parameters alone, and are plain tensors that nothing writes to."""
    fixed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" and node.target in tensors:
            fixed.add(node)
        if node.op != "call_function" or not node.all_input_nodes or _is_impure(node):
            continue
        if isinstance(node.meta.get("val"), Tensor) and all(value in fixed for value in node.all_input_nodes):
            fixed.add(node)
    return fixed


def _is_impure(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    written = is_mutating(target) or any(is_mutating(user.target) for user in node.users)
    return written or torch.Tag.nondeterministic_seeded in target.tags


def _evaluate(node: fx.Node, tensors: Mapping[str, Tensor], known: dict[fx.Node, Tensor]) -> Tensor:
    """Compute a value of parameters alone."""
    if node.op == "get_attr":
        return tensors[str(node.target)].detach()
    if node not in known:
        function: Any = node.target
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda operand: _evaluate(operand, tensors, known))
        with torch.no_grad():
            known[node] = function(*args, **kwargs)
    return known[node]
