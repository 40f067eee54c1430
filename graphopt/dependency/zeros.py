"""Zero propagation: on which axes a value is exactly zero where the members of the axis are."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import fx

from graphopt.aliasing import Aliases, is_mutating
from graphopt.arguments import operand_of
from graphopt.dependency.analysis import Analysis
from graphopt.dependency.registry import Zeros, find_rule
from graphopt.dependency.terms import Leaf, leaves
from graphopt.dependency.ties import Ties
from graphopt.errors import GraphoptError

ZeroSet: TypeAlias = frozenset[Leaf]
NOTHING: ZeroSet = frozenset()
ZEROS = frozenset({torch.ops.aten.zeros.default, torch.ops.aten.new_zeros.default, torch.ops.aten.zeros_like.default})
"""Operators that give zeros whatever their operands hold."""
Spared: TypeAlias = Mapping[int, ZeroSet]
"""Axes that the proof leaves whole in a parameter, by the tensor dimension they lie on."""


class ZeroPropagation:
    """Which axes' zeros reach which values.

    Attributes:
        zero: for every value the axes on whose removed indices it is exactly zero, once the axes' members are zeroed.
        residues: contractions whose operands are not zero there, by node: (operand, tensor dimension).
        residue_leaves: the axes that such a contraction runs over.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._held: dict[fx.Node, ZeroSet] = {}
        self._memory: dict[fx.Graph, Aliases] = {}
        self.zero: dict[fx.Node, ZeroSet] = {}
        self.residues: dict[fx.Node, list[tuple[fx.Node, int]]] = {}
        self.residue_leaves: set[Leaf] = set()
        self._spared = self._spared_attributes()
        for node in analysis.order:
            self.zero[node] = self._visit(node)
            self._check(node)
            self._write(node)

    def held(self, node: fx.Node) -> ZeroSet:
        """The free axes that a value's dimensions hold."""
        if node not in self._held:
            self._held[node] = frozenset(self._leaves(self._analysis.facts.dims.get(node)))
        return self._held[node]

    def _leaves(self, dims: Any) -> Iterable[Leaf]:
        for item in dims or ():
            if isinstance(item, list):
                yield from self._leaves(item)
            elif isinstance(item, tuple):
                yield from (leaf for leaf in leaves(self._analysis.algebra.resolve(item)) if leaf.frozen is None)

    def _spared_attributes(self) -> dict[fx.Node, Spared]:
        """Parameters that a spared operand is computed from, and the axes that the proof leaves whole in them.

        In the operand itself they stay whole where they are spared, in what it is computed from wherever they lie.
        """
        facts = self._analysis.facts
        found: dict[fx.Node, Spared] = {}
        for operand, dims in facts.spared.items():
            spared = {axis: frozenset(self._leaves([dim])) for axis, dim in dims.items()}
            anywhere = NOTHING.union(*spared.values())
            for node in self._ancestors(operand):
                places = spared if node is operand else dict.fromkeys(range(len(facts.dims[node])), anywhere)
                found[node] = _together(found.get(node, {}), places)
        return found

    @staticmethod
    def _ancestors(operand: fx.Node) -> list[fx.Node]:
        """Parameters that a value of weights alone is computed from."""
        seen = {operand}
        stack = [operand]
        while stack:
            fresh = [item for item in stack.pop().all_input_nodes if item not in seen]
            seen.update(fresh)
            stack.extend(fresh)
        return [node for node in seen if node.op == "get_attr"]

    @property
    def spared(self) -> dict[str, Spared]:
        """Names of the parameters that the proof must not zero, with the axes for which it must not, and where."""
        out: dict[str, Spared] = {}
        for node, spared in self._spared.items():
            out[str(node.target)] = _together(out.get(str(node.target), {}), spared)
        return out

    # ------------------------------------------------------------------ visit

    def _visit(self, node: fx.Node) -> ZeroSet:
        if node.op == "get_attr":
            return self.held(node).difference(*self._spared.get(node, {}).values())
        source = self._analysis.sources.get(node)
        if source is not None:
            return self.zero.get(source, NOTHING)
        if node.op != "call_function" or node in self._analysis.failures:
            return NOTHING
        if node.target in ZEROS:
            return self.held(node)
        if node.target is operator.getitem:
            first = node.args[0]
            return (self.zero.get(first, NOTHING) & self.held(node)) if isinstance(first, fx.Node) else NOTHING
        rule = find_rule(node.target)
        if rule is None:
            return NOTHING
        ties = Ties(node, self._analysis.algebra, self._analysis.facts)
        kind: Zeros = rule.zeros(ties) if callable(rule.zeros) else rule.zeros
        return self._travel(kind, node, ties) & self.held(node) - self._analysis.spread(node)

    def _write(self, node: fx.Node) -> None:
        """After a write in place, what lies in the memory written to is zero where the write's result is, at most."""
        target = operand_of(node) if is_mutating(node.target) else None
        while isinstance(target, fx.Node):
            holders = self._aliases(target).holders(target)
            for holder in holders:
                self.zero[holder] = self.zero.get(holder, NOTHING) & self.zero[node]
            target = next((self._analysis.sources.get(item) for item in holders if item.op == "placeholder"), None)

    def _aliases(self, node: fx.Node) -> Aliases:
        owner = node.graph.owning_module
        if owner is None:
            raise GraphoptError(f"the graph of {node.name} belongs to no module; capture the model again")
        if node.graph not in self._memory:
            self._memory[node.graph] = Aliases(owner)
        return self._memory[node.graph]

    def _travel(self, kind: Zeros, node: fx.Node, ties: Ties) -> ZeroSet:
        operands = ties.tensors()
        zeros = [self.zero.get(item, NOTHING) for item in operands]
        if kind == "none" or not operands:
            return NOTHING
        if kind == "keeps":
            return zeros[0]
        if kind == "any":
            return frozenset().union(*zeros)
        if kind == "all":
            return NOTHING if adds_number(ties) else frozenset.intersection(*zeros)
        if kind == "value":
            return self.zero.get(ties["value"], NOTHING)
        if kind == "affine":
            return self._affine(ties)
        return self._joined(operands)

    def _joined(self, operands: list[fx.Node]) -> ZeroSet:
        """Axes on which every operand that holds them is zero."""
        candidates = frozenset().union(*(self.zero.get(item, NOTHING) for item in operands))
        return frozenset(
            leaf
            for leaf in candidates
            if all(leaf in self.zero.get(item, NOTHING) for item in operands if leaf in self.held(item))
        )

    def _affine(self, ties: Ties) -> ZeroSet:
        weight = self.zero.get(ties["weight"], NOTHING)
        if ties.has("bias"):
            return weight & self.zero.get(ties["bias"], NOTHING)
        return self._joined([ties["weight"], ties["input"]])

    # ----------------------------------------------------------------- residue

    def _check(self, node: fx.Node) -> None:
        """Where a contraction runs over an axis that none of its operands is zero on, zeros do not do."""
        for operand, axis, dim in self._analysis.facts.contractions.get(node, ()):
            ties = Ties(node, self._analysis.algebra, self._analysis.facts)
            alone = (node, operand) in self._analysis.facts.alone
            factors = [operand] if alone else ties.tensors()
            known = frozenset().union(*(self.zero.get(item, NOTHING) for item in factors))
            free = {leaf for leaf in leaves(self._analysis.algebra.resolve(dim)) if leaf.frozen is None}
            if free - known:
                self.residues.setdefault(node, []).append((operand, axis))
                self.residue_leaves |= free - known


def adds_number(ties: Ties) -> bool:
    """Whether an operand of a sum is a plain number that is not known to be zero."""
    numbers = [ties[name] for name in ties.names() if name in {"self", "other"} and not ties.is_tensor(ties[name])]
    return any(isinstance(item, fx.Node) or item != 0 for item in numbers)


def _together(first: Spared, second: Spared) -> Spared:
    return {axis: first.get(axis, NOTHING) | second.get(axis, NOTHING) for axis in {*first, *second}}
