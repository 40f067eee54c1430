"""Dead parts of a program: indices of axes that can go, and sums with nothing, without a change of any output."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx

from graphopt.aliasing import Aliases
from graphopt.arguments import arguments_of
from graphopt.dependency.demand import Demand
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.leaf_masks import RowMasks
from graphopt.dependency.placement import BoolArray
from graphopt.dependency.returned import Returned
from graphopt.dependency.static_values import StaticValues
from graphopt.dependency.support import Support
from graphopt.dependency.terms import Leaf, leaves

SUMS = frozenset({torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor})


class DeadParts:
    """What the values of a program's parameters make superfluous, whatever the inputs are.

    An index of an axis is dead if each of its members is zero there or read by nothing that reaches an output: then
    zeroing the members changes nothing, and where mask equals slice neither does slicing them. Axes that a statistic
    runs over, and those that zeros of members do not reach, stay whole.

    Args:
        graph: the dependency graph of a program with weights.
        shifts: whether biases and the means of normalisations count; without, what is constant passes for dead.
    """

    def __init__(self, graph: DependencyGraph, *, shifts: bool = True) -> None:
        self._graph = graph
        self.support = Support(graph.analysis, StaticValues(graph.analysis), shifts=shifts)
        self.demand = Demand(graph.analysis, self.support)

    def kept(self) -> dict[str, tuple[int, ...]]:
        """Indices that stay, by axis id, of every axis that loses some; one stays where all are dead."""
        dead = self._dead()
        found = {}
        for group in self._graph.groups:
            mask = dead.get(self._graph.leaf(group.id))
            if group.marks or mask is None or not mask.any():
                continue
            alive = np.flatnonzero(~mask)
            found[group.id] = tuple(int(index) for index in (alive if alive.size else [0]))
        return found

    def constants(self) -> dict[str, int]:
        """How many indices of an axis, by its id, are constant: only a shift keeps them from being dead."""
        mine, theirs = self._dead(), DeadParts(self._graph, shifts=False)._dead()
        found = {}
        for group in self._graph.groups:
            leaf = self._graph.leaf(group.id)
            count = int((theirs[leaf] & ~mine[leaf]).sum()) if leaf in mine and not group.marks else 0
            if count:
                found[group.id] = count
        return found

    def idle_sums(self) -> dict[str, str]:
        """Sums with a value that is zero everywhere, each with the other operand, by the names of their nodes."""
        program = self._graph.program
        aliases = Aliases(program.graph_module)
        memory = Returned(aliases)
        found = {}
        for node in program.graph_module.graph.nodes:
            other = self._other(node)
            if other is None or aliases.is_written(node) or aliases.is_written(other):
                continue
            if memory.replace(node, other):
                found[node.name] = other.name
        return found

    def _other(self, node: fx.Node) -> fx.Node | None:
        """What a sum equals, where its other operand is zero everywhere."""
        if node.op != "call_function" or node.target not in SUMS:
            return None
        arguments = arguments_of(node)
        first, second = arguments["self"], arguments["other"]
        candidates = (
            [(first, second)] if node.target is torch.ops.aten.sub.Tensor else [(first, second), (second, first)]
        )
        for stays, goes in candidates:
            if isinstance(goes, fx.Node) and goes in self.support.void and _alike(node, stays):
                return stays if isinstance(stays, fx.Node) else None
        return None

    def _dead(self) -> dict[Leaf, BoolArray]:
        """For each free axis that lies on a parameter, which of its indices are dead."""
        dead: dict[Leaf, BoolArray] = {}
        for node in self._graph.analysis.order:
            if node.op != "get_attr" or node not in self._graph.analysis.facts.weights or node in self.support.shifts:
                continue
            nonzero = self.support.rows.get(node, {})
            read = self.demand.rows.get(node, {}) if node in self.demand.need else None
            for key in self._members(node):
                _narrow(dead, key, nonzero, read)
        return dead

    def _members(self, node: fx.Node) -> list[tuple[int, Leaf]]:
        """The free axes on each dimension of a parameter, without those that its zeros do not reach."""
        spared = self._graph.zeros.spared.get(str(node.target), {})
        return [
            (place, leaf)
            for place, dim in enumerate(self.support.dims(node))
            for leaf in leaves(dim)
            if leaf.frozen is None and leaf not in spared.get(place, ())
        ]


def _narrow(dead: dict[Leaf, BoolArray], key: tuple[int, Leaf], nonzero: RowMasks, read: RowMasks | None) -> None:
    """Leave dead only what is zero in this member or not read of it; None reads nothing."""
    leaf = key[1]
    everything = np.ones(leaf.size, dtype=np.bool_)
    used = ~everything if read is None else read.get(key, everything)
    dead[leaf] = dead.get(leaf, everything) & ~(nonzero.get(key, everything) & used)


def _alike(node: fx.Node, other: object) -> bool:
    """Whether a value stands for another: same shape and type."""
    if not isinstance(other, fx.Node):
        return False
    found, wanted = other.meta.get("val"), node.meta.get("val")
    if not isinstance(found, Tensor) or not isinstance(wanted, Tensor):
        return False
    return found.dtype == wanted.dtype and tuple(found.shape) == tuple(wanted.shape)
