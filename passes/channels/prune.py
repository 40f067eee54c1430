"""prune-channels: remove the least important indices of every free axis, down to a budget."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from graphopt.allocate import Allocation, Scope, cost_schedule, ratio_schedule
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.kinds import BY_MARK
from graphopt.dependency.terms import leaves
from graphopt.errors import PreconditionError, SpecError
from graphopt.pass_manager import Pass, PassContext, PassReport, PassResult
from graphopt.pass_manager.figures import figures
from graphopt.pass_manager.suggestions import nearest
from graphopt.passes.channels.allotment import Allotment, Caps, Kept, Target
from graphopt.passes.channels.history import Ancestor
from graphopt.passes.channels.latency import LatencyBudget
from graphopt.passes.channels.likeness import Rules
from graphopt.passes.channels.pricing import Measure, Pricing
from graphopt.passes.channels.rounding import RoundTo
from graphopt.passes.channels.selection import Limits, Selection, select_alike, select_axes
from graphopt.program import Compensate, Program
from graphopt.rewrite.compensation import compensated_plan, remedies
from graphopt.rewrite.slicing import slice_axes
from graphopt.scores import IMPORTANCES


@dataclass(frozen=True, kw_only=True)
class PruneChannels(Pass):
    """Prune coupled channels, heads, hidden units and residual widths.

    Exactly one budget is given: ``ratio``, ``params``, ``macs`` or ``latency_seconds``.

    Attributes:
        ratio: share of the indices of every parameter dimension to remove, in [0, 1).
        params: share of the parameters outside vocabulary tables that may remain, in (0, 1].
        macs: share of the multiply-accumulates that may remain, in (0, 1].
        latency_seconds: seconds that the program may take on its example inputs, measured on this machine with really
            sliced candidates; met within the measured noise, which the report prints.
        importance: name of the score; ``graphopt.scores.IMPORTANCES`` lists them.
        scope: who is compared with whom: the units of one axis (``uniform``), of axes of the same kind and shape
            (``isomorphic``), or all (``global``).
        axes: kinds of axes to prune, all by default: head, kv_group, queries_per_group, qk_dim, vo_dim, pair, expert,
            state, residual, channel, hidden.
        max_ratio: no axis loses more than this share.
        keep_min: every axis keeps at least so many indices.
        round_to: the kept size of every parameter dimension is a multiple of it. ``auto`` takes what the type of each
            weight likes on its device, as far as the axes are wide enough; the report says what and why.
        ratios: ``"pattern=ratio"`` for axes named by a parameter that fits the pattern; they follow that alone.
        ignore: patterns of parameter names; axes on a parameter that fits stay whole.
        steps: number of steps in which the budget is reached, with new scores before each.
        regroup: let groups of a GroupNorm that straddle a concatenation change their members; inexact statistics.
        compensate: what is done about normalisations and means over pruned axes. ``none``: they run over what is kept.
            ``scale``: RMS norms and plain means count what was removed too, by other weights and numbers. ``exact``:
            every statistic does, written out where it has to be.
        uniform_per_layer: sizes that one number of a configuration stands for stay equal: weights that are alike stay
            alike, square ones square; with ``scope=uniform`` whole multiples stay whole multiples. ``own_head_size``
            says that the configuration has a head size apart from the width divided by the heads.

    References:
        Fang et al., DepGraph, CVPR 2023, arXiv 2301.12900; Fang et al., Isomorphic Pruning, ECCV 2024,
        arXiv 2407.04616.
    """

    name: ClassVar[str] = "prune-channels"
    references: ClassVar[tuple[str, ...]] = ("arXiv:2301.12900", "arXiv:2407.04616")

    ratio: float | None = None
    params: float | None = None
    macs: float | None = None
    latency_seconds: float | None = None
    importance: str = "magnitude"
    scope: Scope = "uniform"
    axes: tuple[str, ...] | None = None
    max_ratio: float = 1.0
    keep_min: int = 1
    round_to: RoundTo = 1
    ratios: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    steps: int = 1
    regroup: bool = False
    compensate: Compensate = "none"
    uniform_per_layer: bool | Literal["own_head_size"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        budgets = ("ratio", "params", "macs", "latency_seconds")
        given = [name for name in budgets if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "no budget"
            raise SpecError(
                f"{self.name}: found {found}, wanted exactly one of ratio (share to remove), params or macs (share "
                "that may remain) or latency_seconds, such as prune-channels{ratio=0.5}",
                option=given[1] if given else None,
            )
        share = "a share in (0, 1]"
        self.check_option("ratio", holds=self.ratio is None or 0 <= self.ratio < 1, wanted="a share in [0, 1)")
        for name in ("params", "macs"):
            value = getattr(self, name)
            self.check_option(name, holds=value is None or 0 < value <= 1, wanted=share)
        seconds = self.latency_seconds
        self.check_option("latency_seconds", holds=seconds is None or seconds > 0, wanted="seconds above 0")
        self.check_option("max_ratio", holds=0 < self.max_ratio <= 1, wanted=share)
        for name in ("keep_min", "steps"):
            self.check_option(name, holds=getattr(self, name) >= 1, wanted="a number from 1 up")
        rounded = self.round_to == "auto" or self.round_to >= 1
        self.check_option("round_to", holds=rounded, wanted="a number from 1 up, or auto")
        known = ", ".join(IMPORTANCES)
        self.check_option("importance", holds=self.importance in IMPORTANCES, wanted=f"one of {known}")
        unknown = set(self.axes or ()) - KINDS
        kinds = ", ".join(sorted(KINDS))
        self.check_option("axes", holds=not unknown and self.axes != (), wanted=f"kinds among {kinds}")
        self.check_option("ratios", holds=all(map(_readable, self.ratios)), wanted='texts such as "blocks.0.*=0.3"')

    def requires(self, program: Program) -> None:
        """Check that there are weights to score.

        Raises:
            PreconditionError: The program was captured on the meta device, and the score reads weights.
        """
        if self.importance != "random" and any(tensor.is_meta for tensor in program.parameters.values()):
            raise PreconditionError(
                f"the weights of {program.source.class_name} are on the meta device, so nothing ranks them; load them "
                "first, or give importance=random (a DependencyGraph needs none)"
            )

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Score, allocate and slice; see the class for the options."""
        ancestor = Ancestor.of(program, regroup=self.regroup, compensate=self.compensate)
        graph = ancestor.graph
        self._require_names(graph)
        selection = self._selection(graph)
        caps = Caps(scope=self.scope, max_ratio=self.max_ratio, keep_min=self.keep_min, ratios=self.ratios)
        allotment = Allotment(graph, selection, caps)
        wanted = self.latency_seconds
        latency = None if wanted is None else LatencyBudget(wanted, program, graph, ancestor.kept)
        targets = self._targets(graph, ancestor.kept, latency)
        kept, current = dict(ancestor.kept), program
        notes = list(selection.notes)
        allocation = None
        for target in targets:
            scores, remarks = ancestor.scores(current, kept, selection.groups, self.importance, context)
            notes.extend(remarks)
            if latency is not None and target is targets[-1]:
                allocation = self._measured(latency, allotment, scores, kept, target)
            else:
                allocation = allotment.allocate(scores, kept, target)
            kept = {**kept, **allocation.kept}
            if target is not targets[-1]:
                current = slice_axes(graph, _changed(graph, kept), self.compensate)
        chosen = _Choice(selection, _changed(graph, kept), allocation, tuple(notes), latency)
        return self._result(program, ancestor, chosen, context)

    def _measured(
        self,
        latency: LatencyBudget,
        allotment: Allotment,
        scores: Mapping[str, np.ndarray],
        kept: Kept,
        target: Target,
    ) -> Allocation:
        """The allocation whose sliced program takes as long as is wanted."""
        graph = allotment.graph

        def choose(cost: float) -> Allocation:
            return allotment.allocate(scores, kept, replace(target, cost=cost))

        def build(allocation: Allocation) -> Program:
            return slice_axes(graph, _changed(graph, {**kept, **allocation.kept}), self.compensate)

        return latency.meet(choose, build)

    def _require_names(self, graph: DependencyGraph) -> None:
        """Refuse a pattern that fits nothing: it would be passed over in silence."""
        wanted = [("ignore", pattern, set(graph.tensors)) for pattern in self.ignore]
        named = {group.members[0].tensor for group in graph.groups}
        wanted += [("ratios", text.rpartition("=")[0], named) for text in self.ratios]
        for option, pattern, names in wanted:
            if not fnmatch.filter(names, pattern):
                kind = "parameter" if option == "ignore" else "parameter that names an axis"
                advice = nearest(pattern, names)
                raise SpecError(f"{self.name}: found no {kind} for {pattern!r} in {option}; {advice}", option=option)

    # ---------------------------------------------------------------- budget

    def _selection(self, graph: DependencyGraph) -> Selection:
        limits = Limits(frozenset(self.axes) if self.axes else None, self.ignore, self.round_to)
        if self.uniform_per_layer:
            own_head_size = self.uniform_per_layer == "own_head_size"
            return select_alike(graph, limits, Rules(self.scope == "uniform", own_head_size))
        return select_axes(graph, limits)

    def _targets(
        self, graph: DependencyGraph, before: Mapping[str, tuple[int, ...]], latency: LatencyBudget | None
    ) -> Sequence[Target]:
        """One target a step, of the original's size."""
        if self.ratio is not None:
            return [Target(ratio=ratio) for ratio in ratio_schedule(self.ratio, self.steps)]
        if latency is not None:
            costs = cost_schedule(latency.start, latency.goal, self.steps)
            return [Target(cost=cost, price=latency.price, option="latency_seconds") for cost in costs]
        measure: Measure = "params" if self.params is not None else "macs"
        pricing = Pricing(graph, measure)
        whole, start = pricing({}), pricing({name: len(indices) for name, indices in before.items()})
        share = self.params or self.macs or 1.0
        costs = cost_schedule(start, whole * share, self.steps)
        return [Target(cost=cost, price=pricing, option=measure, value=share) for cost in costs]

    # ---------------------------------------------------------------- result

    def _result(self, program: Program, ancestor: Ancestor, chosen: _Choice, context: PassContext) -> PassResult:
        graph, allocation = ancestor.graph, chosen.allocation
        kept, used = _fuelled(chosen.kept, ancestor.kept, context.fuel)
        changed = kept != _changed(graph, ancestor.kept)
        rewritten = slice_axes(graph, kept, self.compensate) if changed else program
        before, after, notes = figures(program), figures(rewritten), list(chosen.notes)
        if chosen.latency is not None and kept == chosen.kept:
            measured = chosen.latency.figures()
            before, after = before | measured[0], after | measured[1]
            notes.append(chosen.latency.note())
        whole = [f"{name} stays whole: {reason}" for name, reason in chosen.selection.whole]
        if allocation is not None:
            whole += [f"{name} stays whole: {reason}" for name, reason in allocation.whole]
            whole += [f"{pool}: {reason}" for pool, reason in allocation.limited]
        report = PassReport(
            name=self.name,
            spec=str(self),
            before=before,
            after=after,
            frozen=tuple(dict.fromkeys(f"{axis.tensor} dimension {axis.dim}: {axis.reason}" for axis in graph.frozen)),
            refused=tuple(whole),
            notes=(*dict.fromkeys(notes), *_remarks(graph, kept, self.compensate)),
        )
        plan = compensated_plan(graph, kept, (str(self),), self.compensate)
        return PassResult(program=rewritten, plan=plan, changed=changed, report=report, fuel_used=used)


KINDS = frozenset((*BY_MARK.values(), "head", "kv_group", "queries_per_group", "pair", "channel", "hidden"))


@dataclass(frozen=True)
class _Choice:
    """What was decided: the axes, what stays of each, and what there is to say about it."""

    selection: Selection
    kept: Kept
    allocation: Allocation | None
    notes: tuple[str, ...]
    latency: LatencyBudget | None


def _readable(text: str) -> bool:
    pattern, separator, number = text.rpartition("=")
    try:
        return bool(pattern and separator) and 0 <= float(number) < 1
    except ValueError:
        return False


def _changed(graph: DependencyGraph, kept: Mapping[str, tuple[int, ...]]) -> Kept:
    """Only the axes that lose something, in the order of the program."""
    return {
        group.id: tuple(int(index) for index in kept[group.id])
        for group in graph.groups
        if group.id in kept and len(kept[group.id]) < group.size
    }


def _fuelled(kept: Kept, before: Mapping[str, tuple[int, ...]], fuel: int | None) -> tuple[Kept, int]:
    """As many axes rewritten as the fuel allows; the others stay as they were."""
    moved = [name for name, indices in kept.items() if tuple(before.get(name, ())) != indices]
    allowed = moved if fuel is None else moved[:fuel]
    out = {name: indices for name, indices in kept.items() if name in allowed or name not in moved}
    return out | {name: before[name] for name in moved if name not in allowed and name in before}, len(allowed)


def _remarks(graph: DependencyGraph, kept: Kept, compensate: Compensate) -> list[str]:
    notes = []
    statistic = [group.id for group in graph.groups if group.id in kept and "statistic" in group.marks]
    if statistic:
        made_up = remedies(graph, kept, compensate)
        done = (
            "its statistic is now taken over what is kept"
            if compensate == "none"
            else f"{len(made_up.actions)} of {made_up.touched} such statistics count what was removed, the others run "
            "over what is kept"
        )
        notes.append(f"a normalisation or mean runs over {len(statistic)} of {len(kept)} pruned axes: {done}")
    pruned = {graph.leaf(name) for name in kept}
    regrouped = [dim for dim, _ in graph.divisors if pruned.intersection(leaves(dim))]
    if regrouped:
        notes.append(f"{len(regrouped)} GroupNorms across a concatenation were regrouped: their statistics moved")
    return notes
