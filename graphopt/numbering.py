"""Names of nodes that follow from the graph alone, not from the version of torch that traced it."""

from typing import Any

import torch
from torch import fx

from graphopt.wiring import submodule_of


def renumber(graph_module: fx.GraphModule) -> None:
    """Name every node after its operator or tensor and its place, such as `conv2d_3`; placeholders after the argument.

    Placeholders come first: in the code that torch.fx writes, a parameter `x` read before the argument `x` hides it.
    Bodies of higher-order operators are treated alike, each for itself.
    """
    for node in graph_module.graph.nodes:
        body = submodule_of(graph_module, node)
        if body is not None:
            renumber(body)
    graph_module.graph = _renumbered(graph_module.graph)


def _renumbered(graph: fx.Graph) -> fx.Graph:
    named = fx.Graph()
    named.set_codegen(graph._codegen)
    copies: dict[fx.Node, fx.Node] = {}
    for node in sorted(graph.nodes, key=lambda node: node.op != "placeholder"):
        args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
        copies[node] = named.create_node(node.op, node.target, args, kwargs, _base_name(node), node.type)
        copies[node].meta = node.meta
    return named


def _base_name(node: fx.Node) -> str:
    if node.op == "output":
        return node.name
    if node.op in ("placeholder", "get_attr"):
        return str(node.target).replace(".", "_")
    return _operator_name(node.target)


def _operator_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name.partition("::")[2])
    return str(getattr(target, "__name__", target))
