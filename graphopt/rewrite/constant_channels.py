"""Constant channels: indices of axes that go once what they give is folded into biases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.aliasing import is_mutating
from graphopt.dependency.constancy import Constancy
from graphopt.dependency.dead import DeadParts
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.leaf_masks import projected
from graphopt.dependency.placement import BoolArray, kept_mask
from graphopt.dependency.terms import Dim, Leaf, leaves
from graphopt.program import Fold
from graphopt.rewrite.folding import Reader, constants_at, reader_of

Kept = dict[str, tuple[int, ...]]


class ConstantChannels:
    """What can go where constants are folded, whatever the inputs are.

    An index of an axis may go if each operator that sums over the axis reads nothing of it, or reads a constant there
    that its bias can take. What is found holds what is dead, too.

    Args:
        graph: the dependency graph of a program with weights and example inputs.
        dead: what its zeros make superfluous.
    """

    def __init__(self, graph: DependencyGraph, dead: DeadParts) -> None:
        self._graph, self._dead = graph, dead
        self._constancy = Constancy(graph, dead.support, dead.demand)
        self._readers: dict[Reader, dict[Leaf, BoolArray]] = {}
        axes = [group for group in graph.groups if not group.marks]
        self._blocked = {graph.leaf(group.id): np.zeros(group.size, dtype=np.bool_) for group in axes}
        for node in graph.analysis.order:
            self._visit(node)
        runs = all(_is_real(leaf) for leaf in pytree.tree_leaves((graph.program.args, graph.program.kwargs)))
        self._found = constants_at(graph.program, list(self._readers)) if runs and self._readers else {}
        for reader, read in self._readers.items():
            self._require_steady(reader, read)

    def kept(self) -> Kept:
        """Indices that stay, by axis id, of every axis that loses some; one stays where all could go."""
        dead, found = self._dead.kept(), {}
        for group in self._graph.groups:
            blocked = self._blocked.get(self._graph.leaf(group.id))
            if blocked is None:
                continue
            stays = set(np.flatnonzero(blocked).tolist()) & set(dead.get(group.id, range(group.size)))
            if len(stays) < group.size:
                found[group.id] = tuple(sorted(stays)) or (0,)
        return found

    def folds(self, kept: Mapping[str, tuple[int, ...]]) -> tuple[Fold, ...]:
        """What is added to which bias when only these indices are kept.

        Args:
            kept: kept indices by axis id, at least those that `kept` names.
        """
        masks = self._graph.masks(kept)
        found = []
        for reader in self._readers:
            first, steady = self._found.get(reader.input, (None, None))
            gone = ~kept_mask(self._dim(reader), masks)
            weight = self._dead.support.values.get(self._dead.support.weight_of(reader.node) or reader.node)
            if first is None or steady is None or weight is None or not gone.any():
                continue
            constants = torch.where(torch.from_numpy(gone & steady).to(first.device), first, 0)
            values = reader.given(constants, weight)
            if values.any():
                found.append(Fold(reader.node.name, reader.bias, tuple(values.tolist())))
        return tuple(found)

    # ------------------------------------------------------------------ search

    def _visit(self, node: fx.Node) -> None:
        facts, support, demand = self._graph.analysis.facts, self._dead.support, self._dead.demand
        if node.op != "call_function":
            return
        if is_mutating(node.target) or node in self._graph.analysis.failures:
            self._block({leaf for item in node.all_input_nodes for leaf in support.held(item)})
            return
        if facts.statistics.get(node) or facts.mixes.get(node):
            dims = [*facts.statistics.get(node, ()), *facts.mixes.get(node, ())]
            resolve = self._graph.analysis.algebra.resolve
            self._block({leaf for dim in dims for leaf in leaves(resolve(dim))})
        for leaf in demand.coupled(node) & self._blocked.keys():
            if not self._constancy.returns(node, leaf):
                self._sum(node, leaf)

    def _block(self, found: set[Leaf]) -> None:
        for leaf in found & self._blocked.keys():
            self._blocked[leaf][:] = True

    def _sum(self, node: fx.Node, leaf: Leaf) -> None:
        """Block what an operator reads along an axis and its bias cannot take."""
        read = self._constancy.read(node, leaf)
        reader = reader_of(node, self._graph.program) if read.any() else None
        if reader is None:
            self._blocked[leaf] |= read
            return
        varies = self._constancy.varies[reader.input].get(leaf)
        self._blocked[leaf] |= read if varies is None else read & varies
        self._readers.setdefault(reader, {})[leaf] = read

    def _require_steady(self, reader: Reader, read: Mapping[Leaf, BoolArray]) -> None:
        """Block what differs from one position to another, as constants behind a padded convolution do."""
        steady = self._found[reader.input][1] if reader.input in self._found else None
        for leaf, mask in read.items():
            if steady is None:
                self._blocked[leaf] |= mask
            else:
                self._blocked[leaf] |= mask & projected(self._dim(reader), ~steady)[leaf]

    def _dim(self, reader: Reader) -> Dim:
        return self._dead.support.dims(reader.input)[reader.axis]


def _is_real(leaf: object) -> bool:
    """Whether a program runs on it here and now."""
    if isinstance(leaf, torch.SymInt | torch.SymFloat | torch.SymBool):
        return False
    return not isinstance(leaf, Tensor) or (type(leaf) in (Tensor, torch.nn.Parameter) and not leaf.is_meta)
