"""From a Program back to a graph that the inner backend takes for one of torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from graphopt.assembly import Attribute, assemble
from graphopt.backend.arrival import Arrival, Kind
from graphopt.copying import copy_graph
from graphopt.program import Program, same_memory

STALE = ("val", "example_value", "tensor_meta", "from_node", "unbacked_bindings")
"""What the operators of a rewritten graph no longer know."""

MARKS = ("shape_env", "compile_subgraph_reason", "_source_to_user_stacks")
"""What torch.compile writes on a graph module beside its `meta`."""


def hand_on(arrival: Arrival, program: Program, original: Program) -> fx.GraphModule:
    """Write a program as a graph that is called like the one that arrived.

    It has the same placeholders. Parameters and buffers that are as they were are read from theirs; those that were
    sliced or computed are its own, as buffers, so that nothing but them is held. As none of its outputs has gradients,
    it switches them off where they are on.

    Args:
        arrival: The graph that arrived.
        program: What was made of it.
        original: What it was converted to.
    """
    graph = fx.Graph()
    places = {place.name: _placeholder(graph, place.node) for place in arrival.places}
    gradients = torch.is_grad_enabled()
    if gradients:
        graph.call_function(torch._C._set_grad_enabled, (False,))
    kept = _kept(program, original) & {place.name for place in arrival.places if place.kind is Kind.STATIC}
    copied = copy_graph(program.graph_module)
    nodes: dict[fx.Node, fx.Node] = {}
    own: dict[str, Attribute] = {}
    for node in copied.graph.nodes:
        if node.op == "placeholder" or (node.op == "get_attr" and node.target in kept):
            nodes[node] = places[str(node.target)]
        elif node.op == "get_attr":
            nodes[node] = _own(graph, copied.attributes[str(node.target)], own)
        else:
            nodes[node] = graph.node_copy(node, nodes.__getitem__)
            _forget(nodes[node])
    if gradients:
        with graph.inserting_before(graph.output_node()):
            graph.call_function(torch._C._set_grad_enabled, (True,))
    handed = assemble(graph, own, type(arrival.graph_module).__name__)
    _mark(handed, arrival.graph_module, own)
    return handed


def compile_later(graph_module: fx.GraphModule, inner: str) -> Callable[..., Any]:
    """Return a call that compiles a graph when it is first made, for when torch.compile is not at work any more.

    Args:
        graph_module: The graph.
        inner: Backend that compiles it.
    """
    if inner == "eager":
        return graph_module.forward
    # torch.compile never compiles code that torch.fx wrote while torch.compile was at work.
    graph_module.recompile()
    return torch.compile(graph_module.forward, backend=inner)


def _placeholder(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A placeholder as torch.compile wrote it, source included."""
    copied = graph.node_copy(node)
    source: Any = getattr(node, "_dynamo_source", None)
    copied.__dict__["_dynamo_source"] = source
    return copied


def _kept(program: Program, original: Program) -> frozenset[str]:
    """Names of tensors that are what they were."""
    before, now = original.parameters, program.parameters
    return frozenset(name for name in now if name in before and same_memory(now[name], before[name]))


def _own(graph: fx.Graph, attribute: Attribute, own: dict[str, Attribute]) -> fx.Node:
    """A read of a tensor that is the graph's own, or of a body, under a name that torch.compile would give."""
    name = f"_graphopt_{len(own)}"
    value: Any = attribute.value
    own[name] = Attribute(value if isinstance(value, fx.GraphModule) else value.detach(), attribute.persistent)
    return graph.create_node("get_attr", name)


def _forget(node: fx.Node) -> None:
    for key in STALE:
        node.meta.pop(key, None)


def _mark(handed: fx.GraphModule, arrived: fx.GraphModule, own: Mapping[str, Attribute]) -> None:
    """Mark a graph module as one of torch.compile; its own tensors are constants there.

    AOTAutograd looks up where each parameter of such a graph comes from, and refuses one that it does not find.
    """
    handed.meta = dict(arrived.meta)
    known: Mapping[str, Any] = getattr(arrived, "_param_name_to_source", None) or {}
    sources = {**known, **{name: torch._dynamo.source.ConstantSource(name) for name in own}}
    handed.__dict__["_param_name_to_source"] = sources
    for name in MARKS:
        if hasattr(arrived, name):
            handed.__dict__[name] = getattr(arrived, name)
