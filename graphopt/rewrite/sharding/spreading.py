"""How the values of a program are spread over parts, from where an axis enters to where it is gathered."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphopt.aliasing import Aliases
from graphopt.arguments import packet_of
from graphopt.cost import example_macs
from graphopt.program import Program
from graphopt.rewrite.placing.placed import Roles
from graphopt.rewrite.sharding.layout import WHOLE, Given, Layout, NotSplitError, Recipe
from graphopt.rewrite.sharding.question import DualScope, Question
from graphopt.rewrite.sharding.ranges import even_parts
from graphopt.rewrite.sharding.special import ANSWERS
from graphopt.values import is_symbolic, value_of


@dataclass(frozen=True, eq=False)
class Spread:
    """A program with an axis spread over parts.

    Attributes:
        recipes: how each node is computed.
        layouts: how each value is spread, and how the values are cut at which the axis enters.
        gathered: operators that read something gathered whole that was spread, with the reason.
        share: multiply-accumulates that are divided among the parts, of all.
    """

    recipes: Mapping[fx.Node, Recipe]
    layouts: Mapping[fx.Node, Given]
    gathered: tuple[tuple[str, str], ...]
    share: float


class Spreader:
    """Follows axes through a program; asked several times, for different axes.

    Args:
        program: the program.
        parts: number of parts.
        scope: what attention along the axis sees; None for everything.
        displaced: whether what a part reads of others may be a step old.
    """

    def __init__(
        self, program: Program, parts: int, *, scope: DualScope | None = None, displaced: bool = False
    ) -> None:
        self.program = program
        self.parts = parts
        self._scope = scope
        self._displaced = displaced
        graph_module = program.graph_module
        self.nodes = [node for node in graph_module.graph.nodes if node.op != "output"]
        self.free = Roles(graph_module).free
        aliases = Aliases(graph_module)
        self.written = frozenset(node for node in self.nodes if aliases.is_written(node))
        self.shared_memory = [aliases.holders(node) for node in self.nodes if node in self.written]
        self.weights = frozenset(node for node in self.free if isinstance(value_of(node), Tensor))
        self.macs = {node: example_macs(node) for node in self.nodes if node not in self.free and is_operator(node)}
        self._before_work = self._ahead_of_work()
        self._answers: dict[tuple[fx.Node, frozenset[tuple[fx.Node, Layout]]], Recipe] = {}

    def spread(self, seeds: Mapping[fx.Node, Layout]) -> Spread:
        """Follow axes from the values at which they enter.

        Args:
            seeds: how each of these values, which every part has whole, is cut.
        """
        whole: frozenset[fx.Node] = frozenset()
        while True:
            recipes, layouts = self._follow(seeds, whole)
            mixed = self._mixed(recipes, layouts) - whole
            if not mixed:
                break
            whole |= mixed
        reasons = [(node.name, recipe.reason) for node, recipe in recipes.items() if recipe.reason]
        divided = sum(macs for node, macs in self.macs.items() if recipes[node].gives is not None)
        total = sum(self.macs.values())
        return Spread(recipes, layouts, tuple(reasons), divided / total if total else 0.0)

    def _ahead_of_work(self) -> frozenset[fx.Node]:
        """Values that an operator which multiplies is computed from."""
        found: set[fx.Node] = set()
        for node in reversed(self.nodes):
            if any(user in found or self.macs.get(user) for user in node.users):
                found.add(node)
        return frozenset(found)

    def _follow(
        self, seeds: Mapping[fx.Node, Layout], whole: frozenset[fx.Node]
    ) -> tuple[dict[fx.Node, Recipe], dict[fx.Node, Given]]:
        layouts: dict[fx.Node, Given] = {}
        recipes: dict[fx.Node, Recipe] = {}
        for node in self.nodes:
            recipes[node] = recipe = self._recipe(node, layouts, whole)
            given = recipe.gives
            if given is None and node not in whole:
                given = seeds.get(node) or self._resumed(node, recipe, layouts)
            if given is not None:
                layouts[node] = given
        return recipes, layouts

    def _mixed(self, recipes: Mapping[fx.Node, Recipe], layouts: Mapping[fx.Node, Given]) -> frozenset[fx.Node]:
        """Values in memory that is written to in place of which not every part has just its own.

        A write to a part is a write to the whole only where everything that lies in that memory is spread, and read as
        it is spread.
        """
        found: set[fx.Node] = set()
        for holders in self.shared_memory:
            if any(holder in layouts for holder in holders) and not all(
                self._stays_apart(holder, recipes[holder], layouts) for holder in holders
            ):
                found.update(holders)
        return frozenset(found)

    def _stays_apart(self, node: fx.Node, recipe: Recipe, layouts: Mapping[fx.Node, Given]) -> bool:
        if recipe.gives is None or recipe.emit is not None:
            return False
        own = [item for item in node.all_input_nodes if item in self.written]
        return all(item in layouts and recipe.needs.get(item, layouts[item]) == layouts[item] for item in own)

    def _resumed(self, node: fx.Node, recipe: Recipe, layouts: Mapping[fx.Node, Given]) -> Layout | None:
        """How the result of an operator that gathered its operand is cut again, where work comes after it."""
        value = value_of(node)
        if not recipe.reason or recipe.ends or node not in self._before_work or not isinstance(value, Tensor):
            return None
        held = [layouts.get(item) for item in node.all_input_nodes]
        for layout in held:
            if not isinstance(layout, Layout) or layout.outer != 1 or layout.dim >= value.ndim:
                continue
            size = value.shape[layout.dim]
            if not is_symbolic(size) and int(size) >= layout.size:
                return Layout(layout.dim, int(size), even_parts(int(size), self.parts))
        return None

    def _recipe(self, node: fx.Node, layouts: Mapping[fx.Node, Given], whole: frozenset[fx.Node]) -> Recipe:
        held = {item: layouts[item] for item in node.all_input_nodes if item in layouts}
        if not held or node in self.free:
            return WHOLE
        if node.target is operator.getitem:
            return _picked(node, held)
        own = {item: layout for item, layout in held.items() if isinstance(layout, Layout)}
        if node in whole:
            return Recipe(reason="its memory is written to in place, and not by every part for itself")
        key = (node, frozenset(own.items()))
        if key not in self._answers:
            self._answers[key] = self._answer(node, own)
        return self._answers[key]

    def _answer(self, node: fx.Node, layouts: Mapping[fx.Node, Layout]) -> Recipe:
        if not is_operator(node):
            return Recipe(reason="an operator that calls graphs")
        question = Question(node, layouts, self.parts, self.weights, self._scope, self._displaced)
        answer = ANSWERS.get(packet_of(node))
        try:
            return question.by_rule() if answer is None else answer(question)
        except NotSplitError as reason:
            return Recipe(reason=str(reason), ends=reason.ends)


def _picked(node: fx.Node, held: Mapping[fx.Node, Given]) -> Recipe:
    """One of several results."""
    source, index = node.args
    given = held[source] if isinstance(source, fx.Node) else None
    if isinstance(given, Layout) or given is None or not isinstance(index, int):
        return WHOLE
    return Recipe(given[index])


def is_operator(node: fx.Node) -> bool:
    """Tell whether a node calls a plain operator."""
    return isinstance(node.target, torch._ops.OpOverload)
