"""Cuts pushed through a concatenation: what one operand adds to a sum over the concatenated channels.

A contraction over channels is a sum, so ``conv(f(cat(a, b))) = conv_a(f_a(a)) + conv_b(f_b(b))`` wherever ``f`` keeps
the channels of ``a`` apart from those of ``b``. Each side is computed by the same operators on its part of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphopt.aliasing import Aliases
from graphopt.arguments import arguments_of, operand_of, packet_of, schema_of
from graphopt.cuts import Cut
from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.separation import SUMS, Join, join_of, require_apart, sliced_tensors
from graphopt.values import refresh_some

aten = torch.ops.aten


@dataclass(frozen=True)
class Part:
    """The way of one operand of a concatenation to a sum over channels.

    Attributes:
        join: the concatenation.
        place: which of its operands.
        chain: the operators behind the concatenation, up to the sum and with it.
    """

    join: Join
    place: int
    chain: tuple[fx.Node, ...]

    def sources(self, *, own: bool) -> list[fx.Node]:
        """What the operand's contribution is computed from, or with ``own=False`` the rest of the sum."""
        inside = {self.join.concat, *self.chain}
        weights = [node for link in self.chain for node in link.all_input_nodes if node not in inside]
        return [self.join.operands[self._side(own=own)], *weights]

    def insert(self, before: fx.Node, given: Callable[[fx.Node], fx.Node], *, own: bool) -> fx.Node:
        """Compute the operand's contribution, or with ``own=False`` the rest of the sum, its bias included.

        Args:
            before: node in front of which this happens.
            given: from a node of the part's graph to the one that stands for it in the graph of `before`.
            own: which of the two.
        """
        side = self._side(own=own)
        last, current = self.join.concat, given(self.join.operands[side])
        with before.graph.inserting_before(before):
            for link in self.chain:
                changes = {**self._tensors(before.graph, link, given, side), **self._numbers(link, side, own=own)}
                read = {node: given(node) for node in link.all_input_nodes} | {last: current}
                last, current = link, _call_again(before.graph, link, read, changes)
        return current

    def require_unwritten(self, aliases: Aliases) -> None:
        """Refuse a way on which a value changes in place.

        Raises:
            PlanError: one is written to, so that it may not hold at the sum what it held before.
        """
        for node in (*self.join.operands, self.join.concat, *self.chain):
            if aliases.is_written(node):
                raise PlanError(f"{node.name} is written to in place")

    def _side(self, *, own: bool) -> int:
        return self.place if own else 1 - self.place

    def _tensors(
        self, graph: fx.Graph, link: fx.Node, given: Callable[[fx.Node], fx.Node], side: int
    ) -> dict[str, fx.Node]:
        """The parts of an operator's tensors that belong to one operand, by argument."""
        start = sum(self.join.widths[:side])
        stop = start + self.join.widths[side]
        found = {
            name: graph.call_function(aten.slice.Tensor, (given(tensor), dim, start, stop))
            for name, (tensor, dim) in sliced_tensors(link).items()
        }
        refresh_some(found.values())
        return found

    def _numbers(self, link: fx.Node, side: int, *, own: bool) -> dict[str, Any]:
        """Other arguments that change: the bias is added only once, and groups keep their size."""
        if packet_of(link) in SUMS and own:
            return {"bias": None}
        if packet_of(link) is not aten.group_norm:
            return {}
        groups = int(arguments_of(link)["num_groups"])
        return {"num_groups": groups * self.join.widths[side] // sum(self.join.widths)}


def find_part(value: fx.Node, operand: fx.Node) -> Part:
    """Find how an operand of a concatenation reaches a sum over channels.

    Args:
        value: the sum: a convolution or a linear layer.
        operand: an operand of the concatenation before it.

    Raises:
        PlanError: there is no such way, or the operands meet on it before the sum.
    """
    if packet_of(value) not in SUMS:
        raise PlanError(f"{value.name} is no convolution or linear layer, so nothing of it is the part of one operand")
    chain, source = [value], operand_of(value)
    while isinstance(source, fx.Node) and packet_of(source) not in (aten.cat, *SUMS):
        chain.insert(0, source)
        source = operand_of(source)
    if not isinstance(source, fx.Node) or packet_of(source) is not aten.cat:
        raise PlanError(f"found no concatenation before {value.name}; cut at a value instead")
    join = join_of(source)
    if operand not in join.operands:
        raise PlanError(f"{operand.name} is no operand of {join.concat.name}, the concatenation before {value.name}")
    for source, link in zip((join.concat, *chain), chain, strict=False):
        require_apart(link, source, join)
    return Part(join, join.operands.index(operand), tuple(chain))


def push_cut(program: Program, operand: str, concat: str) -> tuple[Cut, ...]:
    """The cuts that together keep all that readers of a concatenation take from one of its operands.

    Args:
        program: the program.
        operand: name of the operand.
        concat: name of the concatenation.

    Raises:
        PlanError: the operands meet otherwise than in sums over channels, or the operand has other readers.
    """
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    join, aliases = join_of(nodes[concat]), Aliases(program.graph_module)
    others = [user.name for user in nodes[operand].users if user is not join.concat]
    if others:
        raise PlanError(f"{operand} is read by {others[0]} too")
    values = sorted(_sums(join.concat, join), key=aliases.order.__getitem__)
    for value in values:
        find_part(value, nodes[operand]).require_unwritten(aliases)
    return tuple(Cut(value.name, part=operand) for value in values)


def _sums(source: fx.Node, join: Join) -> Iterator[fx.Node]:
    """Yield the sums into which a value behind a concatenation runs; whatever reads it has to run into one."""
    for user in source.users:
        require_apart(user, source, join)
        if packet_of(user) in SUMS:
            yield user
        else:
            yield from _sums(user, join)


def _call_again(graph: fx.Graph, node: fx.Node, read: Mapping[fx.Node, fx.Node], changes: Mapping[str, Any]) -> fx.Node:
    """Call an operator once more on other operands, with some arguments changed."""
    names = [argument.name for argument in schema_of(node).arguments]
    args, kwargs = fx.map_arg((node.args, node.kwargs), read.__getitem__)
    changed = tuple(changes.get(name, arg) for name, arg in zip(names, args, strict=False))
    named = {name: changes.get(name, arg) for name, arg in kwargs.items()}
    made = graph.create_node("call_function", node.target, changed, named)
    refresh_some([made])
    return made
