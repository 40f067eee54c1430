"""What may be left out of a program: branches, blocks, and what can be left out of blocks that change the shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import fx

from graphopt.passes.layers.shortcuts import Shortcut, find_shortcuts
from graphopt.program import Bypass, Program
from graphopt.regions import Block, Branch, RegionCost, SampleFlow, find_regions
from graphopt.regions.costing import Costing
from graphopt.regions.timing import operator_seconds
from graphopt.rewrite.bypassing import resolved

UnitKind = Literal["branch", "block"]


@dataclass(frozen=True)
class Unit:
    """A branch or block that may be left out.

    Attributes:
        bypass: What stands for what without it, in names of the captured program.
        pairs: The same in nodes of the present program: a value, and what is read in its place.
        nodes: What nothing needs without it, reads of weights among them.
        names: What a pattern may fit: its id, its module, the kind of a branch.
        weights: Names of the weights that nothing else reads.
        cost: Cost of its nodes.
    """

    bypass: Bypass
    pairs: tuple[tuple[fx.Node, fx.Node], ...]
    nodes: frozenset[fx.Node]
    names: tuple[str, ...]
    weights: tuple[str, ...]
    cost: RegionCost

    @property
    def id(self) -> str:
        """Id of the region."""
        return self.bypass.id

    @property
    def number(self) -> str:
        """Number of the region among those of its kind."""
        return self.id.partition(".")[2] if self.id.startswith(self.bypass.kind) else ""

    def __str__(self) -> str:
        return " ".join([self.id, *(f"({name})" for name in self.names[1:2])])


class Units:
    """The branches and blocks of a program that may be left out, and those that may not.

    Args:
        program: captured, or bypassed before; regions are those of the captured program.
        sample: the input that regions are seen from; the one most like the output by default.
        measure: whether every operator is timed.

    Attributes:
        branches: in the order of execution, those beside shortcuts with weights last.
        blocks: in the order of execution.
        refused: by id why a region is not offered.
        seconds: measured seconds of the whole program, None where it was not measured.
    """

    def __init__(self, program: Program, *, sample: str | None = None, measure: bool = False) -> None:
        self.program = program
        lineage = program.lineage
        origin = program if lineage is None else lineage.origin
        earlier = () if lineage is None else lineage.bypassed
        self._earlier = {
            after.name: before.name for after, before in resolved(origin, [one.replaced for one in earlier]).items()
        }
        regions = find_regions(origin, sample=sample)
        self.flow = SampleFlow(program, sample)
        seconds = operator_seconds(program) if measure else None
        self.seconds = None if seconds is None else sum(seconds.values())
        self._costing = Costing(self.flow, seconds)
        self._tensors = program.parameters
        self.refused: dict[str, str] = {}
        beside = find_shortcuts(origin, regions)
        self.branches = tuple(self._offered(map(_of_branch, regions.branches), "branch"))
        self.branches += tuple(self._offered(map(_of_shortcut, beside), "branch"))
        within = sorted(self.branches, key=lambda unit: -len(unit.nodes))
        drafts = (_of_block(block, within, self._shapes(block)) for block in regions.blocks)
        self.blocks = tuple(self._offered(drafts, "block"))

    def of_kind(self, kind: UnitKind) -> tuple[Unit, ...]:
        """Return all units of a kind."""
        return self.branches if kind == "branch" else self.blocks

    def in_order(self, units: Iterable[Unit]) -> tuple[Unit, ...]:
        """Return units in the order in which they begin, those that hold others first."""
        order = self.flow.order
        return tuple(sorted(units, key=lambda unit: (min(order[node] for node in unit.nodes), -len(unit.nodes))))

    def removed(self, units: Sequence[Unit]) -> RegionCost:
        """Return what goes when several units are left out together, shared parts included."""
        sources = resolved(self.program, [{after.name: before.name for after, before in unit.pairs} for unit in units])
        return self._costing.cost(self.flow.dying(sources, set(sources.values())))

    def _offered(self, drafts: Iterable[_Draft], kind: UnitKind) -> Iterator[Unit]:
        for draft in drafts:
            if draft.replaced.keys() & self._earlier.keys():
                continue
            reason = self._refusal(draft)
            unit = None if reason else self._unit(draft, kind)
            if unit is None or not unit.nodes:
                self.refused[draft.id] = reason or "nothing goes with it"
                continue
            yield unit

    def _shapes(self, block: Block) -> str:
        entering, leaving = (" and ".join(map(self._described, names)) for names in (block.inputs, block.outputs))
        return f"{entering} go in and {leaving} come out"

    def _described(self, name: str) -> str:
        node = self.flow.by_name.get(name)
        return name if node is None else f"{name} {list(self.flow.shape(node))}"

    def _refusal(self, draft: _Draft) -> str:
        if not draft.replaced:
            return draft.reason
        names = [*draft.replaced, *(self._earlier.get(name, name) for name in draft.replaced.values())]
        gone = [name for name in names if name not in self.flow.by_name]
        if gone:
            return f"{gone[0]} left with what an earlier pass left out"
        writer = next(self._writers(draft), None)
        return "" if writer is None else f"{writer.name} writes in place to what is read elsewhere"

    def _unit(self, draft: _Draft, kind: UnitKind) -> Unit:
        named = self.flow.by_name
        pairs = tuple(
            (named[after], named[self._earlier.get(before, before)]) for after, before in draft.replaced.items()
        )
        nodes = self.flow.dying([after for after, _ in pairs], {before for _, before in pairs})
        return Unit(
            bypass=Bypass(draft.id, kind, draft.replaced),
            pairs=pairs,
            nodes=frozenset(nodes),
            names=draft.names,
            weights=tuple(self._weights(frozenset(nodes))),
            cost=self._costing.cost(nodes),
        )

    def _weights(self, nodes: frozenset[fx.Node]) -> Iterator[str]:
        reads = [node for node in self.flow.nodes if node.op == "get_attr" and str(node.target) in self._tensors]
        elsewhere = {id(self._tensors[str(node.target)]) for node in reads if node not in nodes}
        own = {str(node.target): id(self._tensors[str(node.target)]) for node in reads if node in nodes}
        yield from dict.fromkeys(name for name, place in own.items() if place not in elsewhere)

    def _writers(self, draft: _Draft) -> Iterator[fx.Node]:
        """Yield operators that write to memory of the unit's values, or that lie in it and write to anything."""
        flow = self.flow
        writing = [(node, targets) for node, targets in flow.writers.items() if targets]
        for after, before in draft.replaced.items() if writing else ():
            output, source = flow.by_name[after], flow.by_name[self._earlier.get(before, before)]
            behind = flow.reached_from([source]) - {source}
            for node, targets in writing:
                inside = node in behind and output in flow.reached_from([node])
                if inside or any(flow.owner[target] in (flow.owner[output], flow.owner[source]) for target in targets):
                    yield node


@dataclass(frozen=True)
class _Draft:
    """A region before it is known whether it can be left out."""

    id: str
    names: tuple[str, ...]
    replaced: dict[str, str]
    reason: str = "nothing comes out of it"


def _of_branch(branch: Branch) -> _Draft:
    return _Draft(branch.id, (branch.id, branch.module, branch.kind), {branch.add: branch.base})


def _of_shortcut(shortcut: Shortcut) -> _Draft:
    return _Draft(shortcut.id, (shortcut.id, shortcut.module, shortcut.kind), {shortcut.add: shortcut.base})


def _of_block(block: Block, branches: Sequence[Unit], shapes: str) -> _Draft:
    """A block whose outputs are its inputs, or without what is added within it where it changes the shape."""
    names = (block.id, block.module)
    if block.bypassable:
        return _Draft(block.id, names, dict(zip(block.outputs, block.inputs, strict=True)))
    own, taken, replaced = set(block.nodes), set[str](), dict[str, str]()
    for unit in branches:
        inside = {node.name for node in unit.nodes if node.op == "call_function"}
        if inside <= own and not inside & taken:
            taken |= inside
            replaced |= unit.bypass.replaced
    return _Draft(block.id, names, replaced, f"{shapes}; nothing in it is added to a value of the same shape")
