"""Which nodes of a graph a model's calls became, and what the numbers passed there are in the rewritten program."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.arguments import packet_of, schema_of
from graphopt.capture_failure import TORCH
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import kept_size
from graphopt.dependency.terms import Dim, Leaf
from graphopt.dependency.ties import Path
from graphopt.program import Program
from graphopt.restoring.aligning import Event, align
from graphopt.restoring.recording import Call, Shapes
from graphopt.values import hint


@dataclass(frozen=True)
class Number:
    """An integer among a node's arguments.

    Attributes:
        before: as it is in the original graph.
        after: as it is in the rewritten one.
        dim: the dimension whose size it is, where a rule says so.
    """

    before: int
    after: int
    dim: Dim | None = None


_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')


@dataclass(frozen=True, eq=False)
class Match:
    """A call and the nodes it became.

    Attributes:
        call: the call.
        nodes: its nodes, the last of which gives what the call returns.
        numbers: integers among the nodes' arguments, before and after, in order.
        shapes: shapes that the call has to return in the rewritten model.
    """

    call: Call
    nodes: tuple[fx.Node, ...]
    numbers: tuple[Number, ...]
    shapes: Shapes


def match_calls(calls: Sequence[Call], graph: DependencyGraph, counts: Mapping[Leaf, int]) -> list[Match | None]:
    """Find the nodes of every call, by module, source line, order and shape.

    Args:
        calls: what the model called, in order.
        graph: analysis of the program captured from it.
        counts: how many indices each leaf keeps.

    Returns:
        One entry a call; None where a call left no node, as dropout does.
    """
    nodes, places, pairs = _aligned(calls, graph.program)
    matches: list[Match | None] = [None] * len(calls)
    taken = -1
    for call, node in sorted(pairs.items(), key=lambda pair: pair[1]):
        start = node
        while start - 1 > taken and places[start - 1] == places[node]:
            start -= 1
        own = tuple(nodes[start : node + 1])
        numbers = tuple(number for one in own for number in numbers_of(one, graph, counts))
        matches[call] = Match(calls[call], own, numbers, kept_shapes(nodes[node], graph, counts))
        taken = node
    return matches


def nodes_of(calls: Sequence[Call], program: Program) -> dict[int, str]:
    """Name of the node that gives what a call returns, by place of the call.

    Args:
        calls: what the model called, in order.
        program: captured from it.
    """
    nodes, _, pairs = _aligned(calls, program)
    return {call: nodes[node].name for call, node in pairs.items()}


def _aligned(calls: Sequence[Call], program: Program) -> tuple[list[fx.Node], list[tuple[str, str]], dict[int, int]]:
    """The operators of a program, where they come from, and which of them each call became."""
    nodes = [node for node in program.nodes() if _is_operator(node)]
    places = [_place(node) for node in nodes]
    made = [_event(*place, shapes_of_node(node), _name(node)) for node, place in zip(nodes, places, strict=True)]
    called = [_event(call.module, call.line, call.shapes, call.name) for call in calls]
    return nodes, places, align(called, made)


def _event(module: str, line: str, shapes: Shapes, name: str) -> Event:
    return Event(((module, line, shapes), ("line", line, shapes), ("module", module, shapes)), name)


def numbers_of(node: fx.Node, graph: DependencyGraph, counts: Mapping[Leaf, int]) -> Iterator[Number]:
    """Yield the integers among a node's arguments as they are and as the rewritten graph has them."""
    baked = graph.analysis.facts.bakes.get(node, {})
    for path, value in _arguments(node):
        number = _integer(value)
        if number is None:
            continue
        dim = graph.analysis.algebra.resolve(baked[path]) if path in baked and number != -1 else None
        yield Number(number, number if dim is None else kept_size(dim, counts), dim)


def _arguments(node: fx.Node) -> Iterator[tuple[Path, Any]]:
    """Yield what a node is given with the argument's name, and the place in it where it is a list."""
    names = [argument.name for argument in schema_of(node).arguments] if _has_schema(node) else []
    for name, value in [*zip(names, node.args, strict=False), *node.kwargs.items()]:
        if isinstance(value, list | tuple):
            yield from (((name, place), item) for place, item in enumerate(value))
        else:
            yield (name, None), value


def kept_shapes(node: fx.Node, graph: DependencyGraph, counts: Mapping[Leaf, int]) -> Shapes:
    """The shapes of the tensors that a node gives in the rewritten graph."""
    dims = graph.analysis.facts.dims.get(node)
    if dims is None:
        return shapes_of_node(node)
    resolve = graph.analysis.algebra.resolve

    def shape(entry: Sequence[Dim]) -> tuple[int, ...]:
        return tuple(kept_size(resolve(dim), counts) for dim in entry)

    if dims and isinstance(dims[0], list):
        return tuple(shape(entry) for entry in dims if entry is not None)
    return (shape(dims),)


def _is_operator(node: fx.Node) -> bool:
    return node.op == "call_function" and bool(shapes_of_node(node))


def _place(node: fx.Node) -> tuple[str, str]:
    """Dotted name of the module, and the deepest line of a forward outside torch."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module = re.sub(r"@\d+", "", str(stack[-1][0])) if stack else ""
    frames = _FRAME.findall(str(node.meta.get("stack_trace") or ""))
    own = [f"{file}:{line}" for file, line, name in frames if name == "forward" and not file.startswith((TORCH, "<"))]
    return module, own[-1] if own else ""


def shapes_of_node(node: fx.Node) -> Shapes:
    """The shapes of the tensors that a node gives on the example."""
    value = node.meta.get("val")
    tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    return tuple(tuple(map(hint, tensor.shape)) for tensor in tensors)


def _integer(value: Any) -> int | None:
    """An integer argument as a number, a computed one as it is on the example; None for anything else."""
    if isinstance(value, fx.Node):
        value = value.meta.get("val")
    if isinstance(value, torch.SymInt):
        return hint(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _has_schema(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload)


def _name(node: fx.Node) -> str:
    packet = packet_of(node)
    return str(getattr(packet, "__name__", packet))
