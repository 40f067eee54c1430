"""Building the placed graph of a program that is computed in parts."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from math import gcd
from typing import Any

import torch
from torch import fx

from graphopt.aliasing import Aliases
from graphopt.arguments import schema_of
from graphopt.dependency.ties import concrete
from graphopt.program import Program
from graphopt.rewrite.placing.copies import PlacedBuilder
from graphopt.rewrite.sharding.layout import Edits, Given, Layout, Recipe, Size
from graphopt.rewrite.sharding.ranges import Piece, Ranges, pieces
from graphopt.stages import Site
from graphopt.values import value_of

aten = torch.ops.aten
LATE = aten.clone.default
"""Stands for a delay until the graph is whole: an alias would be dropped as an operator that does nothing."""


class Workshop:
    """A placed graph under construction, one node of the program at a time.

    Attributes:
        node: node of the program that is being computed.
        recipe: how.
        late: names of the nodes that give values of the step before, and whether these may be extrapolated.
        sampler: device that has the inputs and gets the outputs.

    Args:
        program: the program.
        layouts: how each value is spread; those that are left out are whole.
        parts: number of parts.
        devices: device of each node by name, for all parts; None where part p is computed on device p.
        displaced: whether what a part reads of others is a step old.
        sampler: see the attribute.
    """

    def __init__(
        self,
        program: Program,
        layouts: Mapping[fx.Node, Given],
        parts: int,
        devices: Mapping[str, int] | None,
        *,
        displaced: bool,
        sampler: int,
    ) -> None:
        self.node = program.graph_module.graph.output_node()
        self.recipe = Recipe()
        self.late: dict[str, bool] = {}
        self._builder = PlacedBuilder(program)
        self._memory = Aliases(program.graph_module)
        self._layouts = layouts
        self._parts = parts
        self._devices = devices
        self._displaced = displaced
        self.sampler = sampler
        self._whole: dict[tuple[fx.Node, int], fx.Node] = {}
        self._part: dict[tuple[fx.Node, int], fx.Node] = {}
        self._made: dict[tuple[Any, ...], fx.Node] = {}

    # --------------------------------------------------------------- operators

    def compute(self, node: fx.Node, recipe: Recipe) -> None:
        """Add what the parts compute of one node of the program."""
        self.node, self.recipe = node, recipe
        if node.op == "placeholder":
            self._keep(node, [self._builder.input(node)] * self._parts, whole=True)
        elif node in self._builder.roles.free:
            self._keep(node, self._free_copies(node), whole=True)
        else:
            found = self._parts_of(recipe)
            self._keep(node, found, whole=recipe.gives is None)

    def _parts_of(self, recipe: Recipe) -> list[fx.Node]:
        if recipe.emit is not None:
            return recipe.emit(self)
        if recipe.gives is None and self._devices is not None:
            return [self.copy(0, recipe.edits[0] if recipe.edits else {})] * self._parts
        edits = recipe.edits or ({},) * self._parts
        return [self.copy(part, edits[part]) for part in range(self._parts)]

    def _keep(self, node: fx.Node, found: list[fx.Node], *, whole: bool) -> None:
        kept = self._whole if whole else self._part
        kept.update({(node, part): value for part, value in enumerate(found)})

    def _free_copies(self, node: fx.Node) -> list[fx.Node]:
        """One for all parts; memory that is made to be written to is each part's own."""
        if self._devices is None and node.op == "call_function" and self._memory.is_written(node):
            return [self._free(node, part) for part in range(self._parts)]
        return [self._free(node, 0)] * self._parts

    def _free(self, node: fx.Node, part: int) -> fx.Node:
        """Copy a size, a constant or a tensor of the model; the size of what is spread is that of the whole."""
        name = node.name if part == 0 else f"{node.name}_part_{part}"
        copy = self._builder.add(node, lambda operand: self._any_part(operand, part), name, None)
        if node.target is not aten.sym_size.int:
            return copy
        source, dim = node.args
        layout = self._spread(source)
        if layout is None or concrete(dim) % value_of(source).ndim != layout.dim:
            return copy
        return self._scaled(copy, layout.count(0), layout.size)

    def _any_part(self, operand: fx.Node, part: int) -> fx.Node:
        found = self._whole.get((operand, part))
        return self._part[operand, part] if found is None else found

    def _spread(self, operand: object) -> Layout | None:
        """How a value is spread that no part has whole."""
        if not isinstance(operand, fx.Node) or (operand, 0) in self._whole:
            return None
        layout = self._layouts.get(operand)
        return layout if isinstance(layout, Layout) else None

    def copy(self, part: int, edits: Edits, instead: Mapping[fx.Node, fx.Node] | None = None) -> fx.Node:
        """Add what one part computes of the present node.

        Args:
            part: number of the part.
            edits: arguments that differ, by name and position.
            instead: what it reads in place of what its recipe says, by operand.
        """
        name = self.node.name if part == 0 else f"{self.node.name}_part_{part}"
        own = instead or {}

        def lookup(operand: fx.Node) -> fx.Node:
            return own[operand] if operand in own else self.operand(operand, part)

        copy = self._builder.add(self.node, lookup, name, self.site(part))
        for (argument, position), value in edits.items():
            self._edit(copy, argument, position, value)
        return copy

    def _edit(self, copy: fx.Node, name: str, position: int | None, value: Any) -> None:
        index = [argument.name for argument in schema_of(copy).arguments].index(name)
        before = copy.args[index] if index < len(copy.args) else copy.kwargs.get(name)
        items = list(before) if position is not None and isinstance(before, list | tuple) else None
        old = items[position] if items is not None and position is not None else before
        new = self._resized(copy, old, value, listed=items is not None) if isinstance(value, Size) else value
        if items is not None and position is not None:
            items[position] = new
        whole = new if items is None else items
        if index < len(copy.args):
            copy.args = (*copy.args[:index], whole, *copy.args[index + 1 :])
        else:
            copy.kwargs = {**copy.kwargs, name: whole}

    def _resized(self, copy: fx.Node, old: Any, size: Size, *, listed: bool) -> Any:
        if isinstance(old, fx.Node):
            with self._builder.graph.inserting_before(copy):
                return self._scaled(old, size.whole, size.part)
        return old if listed and old == -1 else size.part

    def _scaled(self, number: fx.Node, before: int, after: int) -> fx.Node:
        """The number ``number * after // before``; what is symbolic in it stays so."""
        shared = gcd(before, after)
        product = self._builder.call(operator.mul, (number, after // shared), f"{number.name}_part", None)
        return self._builder.call(operator.floordiv, (product, before // shared), f"{number.name}_part", None)

    def call(self, target: Any, args: tuple[Any, ...], part: int, **kwargs: Any) -> fx.Node:
        """Add an operator that the program does not have, where the present node is computed."""
        return self._call(target, args, self.site(part), kwargs)

    def _call(self, target: Any, args: tuple[Any, ...], site: Site | None, kwargs: dict[str, Any]) -> fx.Node:
        copy = 0 if site is None else site.copy
        name = f"{self.node.name}_{target._schema.name.partition('::')[2]}_{copy}"
        node = self._builder.call(target, args, name, site)
        node.kwargs = kwargs
        return node

    def site(self, part: int) -> Site:
        """Where a part of the present node is computed."""
        if self._devices is None:
            return Site(part, part)
        return Site(self._devices.get(self.node.name, self.sampler), part)

    def _site_of(self, value: fx.Node, part: int) -> Site | None:
        """Where a value of the new graph is; inputs are at the sampler."""
        if value.op == "placeholder":
            return Site(self.sampler, part)
        return self._builder.sites.get(value.name)

    # ------------------------------------------------------------------ reading

    def operand(self, operand: fx.Node, part: int) -> fx.Node:
        """What a part of the present node reads of an operand, by its recipe."""
        return self.read(operand, part, self.recipe.needs.get(operand))

    def read(self, operand: fx.Node, part: int, need: Layout | None) -> fx.Node:
        """What a part reads of a value; ``need`` is None for the whole."""
        whole = self._whole.get((operand, part))
        if whole is not None:
            return whole if need is None else self._taken(whole, need, part)
        held = self._layouts[operand]
        if not isinstance(held, Layout):
            return self._part[operand, part]  # several results, of which the next node picks one
        if need is not None and not need.alike(held):
            return self._taken(self._fetched(operand, part, held, ((0, held.size),)), need, part)
        return self._fetched(operand, part, held, ((0, held.size),) if need is None else need.parts[part])

    def _taken(self, whole: fx.Node, need: Layout, part: int) -> fx.Node:
        """Indices of a value that the part has whole."""
        found = [Piece(0, start, stop - start) for start, stop in need.parts[part]]
        site = self._site_of(whole, part)
        return self._joined([self._sliced(whole, need, piece, need.size, site) for piece in found], need, site)

    def _fetched(self, operand: fx.Node, part: int, held: Layout, wanted: Ranges) -> fx.Node:
        """Indices of a value that is spread: its own and those of other parts."""
        if wanted == held.parts[part]:
            return self._part[operand, part]
        found = []
        for piece in pieces(wanted, held.parts):
            value = self._part[operand, piece.owner]
            site = self._site_of(value, piece.owner)
            taken = self._sliced(value, held, piece, held.count(piece.owner), site)
            found.append(self.shared(taken, piece.owner, part))
        return self._joined(found, held, self.site(part))

    def shared(self, value: fx.Node, owner: int, part: int) -> fx.Node:
        """A value of one part as another reads it: of the step before, where that is allowed."""
        is_late = owner > part if self._devices is not None else owner != part
        if not self._displaced or not is_late or self.recipe.gives is None:
            return value
        return self._delayed(value, part)

    def delayed(self, value: fx.Node, owner: int, part: int) -> fx.Node:
        """A statistic of any part as it was in the step before, where parts run at once; else as another reads it."""
        if self._devices is not None and owner <= part:
            return value
        return self._delayed(value, part, statistic=True)

    def _delayed(self, value: fx.Node, part: int, *, statistic: bool = False) -> fx.Node:
        key = ("late", value, self.site(part))
        if key not in self._made:
            node = self._builder.call(LATE, (value,), f"{value.name}_late_{part}", self.site(part))
            self.late[node.name] = not statistic
            self._made[key] = node
        return self._made[key]

    def _sliced(self, value: fx.Node, layout: Layout, piece: Piece, size: int, site: Site | None) -> fx.Node:
        """Part of a value along its axis, with the axis as a dimension of its own."""
        key = ("slice", value, layout.dim, layout.outer, piece.start, piece.length, site)
        if key not in self._made:
            self._made[key] = self._new_slice(value, layout, piece, size, site)
        return self._made[key]

    def _new_slice(self, value: fx.Node, layout: Layout, piece: Piece, size: int, site: Site | None) -> fx.Node:
        dim = layout.dim
        if layout.outer > 1:
            value = self._call(aten.unflatten.int, (value, dim, [-1, size]), site, {})
            dim += 1
        if piece.length == size:
            return value
        return self._call(aten.slice.Tensor, (value, dim, piece.start, piece.start + piece.length), site, {})

    def _joined(self, found: list[fx.Node], layout: Layout, site: Site | None) -> fx.Node:
        key = ("join", *found, layout.dim, layout.outer, site)
        if key not in self._made:
            self._made[key] = self._new_join(found, layout, site)
        return self._made[key]

    def _new_join(self, found: list[fx.Node], layout: Layout, site: Site | None) -> fx.Node:
        dim = layout.dim + (layout.outer > 1)
        value = found[0] if len(found) == 1 else self._call(aten.cat.default, (found, dim), site, {})
        if layout.outer > 1:
            value = self._call(aten.flatten.using_ints, (value, layout.dim, dim), site, {})
        return value

    # ------------------------------------------------------------------ results

    def finish(self) -> tuple[Program, dict[str, Site]]:
        """Add the outputs, whole and of this step, at the sampler; return the program and where its nodes are."""
        self.node = self._builder.program.graph_module.graph.output_node()
        self.recipe = Recipe()
        part = self.sampler if self._devices is None else 0
        program = self._builder.finish(lambda node: self.read(node, part, None))
        return program, self._builder.sites
