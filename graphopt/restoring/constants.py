"""Numbers that a class derives from sizes when it runs: what follows from them is put into parameters instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphopt.arguments import packet_of
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import kept_size
from graphopt.dependency.terms import Leaf
from graphopt.program import Program
from graphopt.restoring.attention import head_size, scaled_nodes
from graphopt.restoring.matching import Match
from graphopt.restoring.recording import Call
from graphopt.restoring.scaling import Scaling
from graphopt.running import values_apart

aten = torch.ops.aten


@dataclass(frozen=True)
class Moved:
    """A number that is another one in the smaller model.

    Attributes:
        match: the call that is given the number.
        node: the operator of the captured program that has it.
        before: the number in the user's model, and in the rewritten program.
        after: the number in the smaller model.
    """

    match: Match
    node: fx.Node
    before: float
    after: float


def moved_constants(
    calls: Sequence[Call],
    matches: Sequence[Match | None],
    smaller: Sequence[Call],
    graph: DependencyGraph,
    counts: Mapping[Leaf, int],
) -> Iterator[Moved]:
    """Yield the constants of arithmetic and of attention that differ in the smaller model.

    Args:
        calls: what the user's model calls.
        matches: what became of each call.
        smaller: what the smaller model calls.
        graph: analysis of the captured program.
        counts: how many indices each leaf keeps.
    """
    made = dict(zip(keys_of(smaller), smaller, strict=True))
    for key, match in zip(keys_of(calls), matches, strict=True):
        call = made.get(key)
        if match is None or call is None:
            continue
        yield from _moved_scale(match, graph, counts)
        packet = packet_of(match.nodes[-1])
        if packet in (aten.mul, aten.div):
            before, after = (*match.call.numbers, *match.call.floats), (*call.numbers, *call.floats)
        else:
            before, after = match.call.floats, call.floats
        yield from (
            Moved(match, match.nodes[-1], float(one), float(other))
            for one, other in zip(before, after, strict=False)
            if one != other and one and other
        )


def keys_of(calls: Sequence[Call]) -> Iterator[tuple[str, str, str, int]]:
    """Yield what tells calls apart in both models: module, line, function, and how often before."""
    seen: Counter[tuple[str, str, str]] = Counter()
    for call in calls:
        key = (call.module, call.spot, call.name)
        seen[key] += 1
        yield (*key, seen[key])


def _moved_scale(match: Match, graph: DependencyGraph, counts: Mapping[Leaf, int]) -> Iterator[Moved]:
    """Attention without a scale divides by the root of the present head size."""
    for node in match.nodes:
        for name, value, dim in graph.analysis.facts.explicits.get(node, ()):
            size = kept_size(graph.analysis.algebra.resolve(dim), counts)
            if name == "scale" and abs(size**-0.5 - value) > 1e-12:
                yield Moved(match, node, value, size**-0.5)
    sizes = head_size(match, graph, counts)
    if sizes is not None and sizes[0] != sizes[1]:
        yield from (Moved(match, node, sizes[0] ** -0.5, sizes[1] ** -0.5) for node in scaled_nodes(match))


def folded(program: Program, moved: Sequence[Moved]) -> tuple[dict[str, Tensor], tuple[Moved, ...]]:
    """The program's tensors with moved constants undone in what comes before.

    Args:
        program: the rewritten program.
        moved: the constants.

    Returns:
        All tensors by name, and the constants that nothing before them can undo.
    """
    tensors = program.parameters
    if not moved:
        return tensors, ()
    values = values_apart(program)
    nodes = {node.name: node for node in values}
    scaling = Scaling(program, values)
    factors: dict[int, list[tuple[float, Tensor]]] = {}
    left: list[Moved] = []
    for one in moved:
        node = nodes.get(one.node.name)
        if node is not None and one.after in pytree.tree_leaves((node.args, node.kwargs)):
            continue  # the program has that number too
        found = None if node is None else _undone(scaling, node, one)
        if found is None:
            left.append(one)
            continue
        factor, masks = found
        for name, mask in masks.items():
            _note(factors.setdefault(id(tensors[name]), []), factor, mask)
    return {name: _multiplied(tensor, factors.get(id(tensor), [])) for name, tensor in tensors.items()}, tuple(left)


def _note(known: list[tuple[float, Tensor]], factor: float, mask: Tensor) -> None:
    """Add a factor and its mask once: layers that share a tensor undo their constants together."""
    if not any(other == factor and torch.equal(mask, held) for other, held in known):
        known.append((factor, mask))


def _undone(scaling: Scaling, node: fx.Node, moved: Moved) -> tuple[float, dict[str, Tensor]] | None:
    """A factor and the parameters that undo a constant when multiplied by it."""
    packet = packet_of(node)
    factor = moved.after / moved.before if packet is aten.div else moved.before / moved.after
    operands = node.all_input_nodes[:2] if packet is aten.scaled_dot_product_attention else node.all_input_nodes[:1]
    if packet not in (aten.mul, aten.div, aten.scaled_dot_product_attention):
        return None
    found = (scaling.parameters_of(operand) for operand in operands)
    masks = next((one for one in found if one is not None), None)
    return None if masks is None else (factor, masks)


def _multiplied(tensor: Tensor, factors: Sequence[tuple[float, Tensor]]) -> Tensor:
    made = tensor.detach()
    for factor, mask in factors:
        made = made * (1 + (factor - 1) * mask).to(tensor.dtype)
    if not factors:
        return tensor
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
