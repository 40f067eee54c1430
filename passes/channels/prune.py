"""prune-channels: remove the least important indices of every free axis, down to a budget."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, TypedDict

import numpy as np

from graphopt.allocate import Allocation, AxisUnits, Scope, allocate, cost_schedule, exact_ratio, ratio_schedule
from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.dependency.kinds import BY_MARK
from graphopt.dependency.terms import leaves
from graphopt.errors import BudgetError, PreconditionError, SpecError
from graphopt.pass_manager import Pass, PassContext, PassReport, PassResult
from graphopt.pass_manager.figures import figures
from graphopt.pass_manager.suggestions import nearest
from graphopt.passes.channels.history import Ancestor
from graphopt.passes.channels.pricing import Measure, Pricing
from graphopt.passes.channels.selection import Limits, Selection, select_axes
from graphopt.plan import make_plan
from graphopt.program import Program
from graphopt.rewrite.slicing import slice_axes
from graphopt.scores import IMPORTANCES

Kept = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class PruneChannels(Pass):
    """Prune coupled channels, heads, hidden units and residual widths.

    Exactly one budget is given: ``ratio``, ``params`` or ``macs``.

    Attributes:
        ratio: share of the indices of every parameter dimension to remove, in [0, 1).
        params: share of the parameters outside vocabulary tables that may remain, in (0, 1].
        macs: share of the multiply-accumulates that may remain, in (0, 1].
        importance: name of the score; ``graphopt.scores.IMPORTANCES`` lists them.
        scope: who is compared with whom: the units of one axis (``uniform``), of axes of the same kind and shape
            (``isomorphic``), or all (``global``).
        axes: kinds of axes to prune, all by default: head, kv_group, queries_per_group, qk_dim, vo_dim, pair, expert,
            state, residual, channel, hidden.
        max_ratio: no axis loses more than this share.
        keep_min: every axis keeps at least so many indices.
        round_to: the kept size of every parameter dimension is a multiple of it.
        ratios: ``"pattern=ratio"`` for axes named by a parameter that fits the pattern; they follow that alone.
        ignore: patterns of parameter names; axes on a parameter that fits stay whole.
        steps: number of steps in which the budget is reached, with new scores before each.
        regroup: let groups of a GroupNorm that straddle a concatenation change their members; inexact statistics.

    References:
        Fang et al., DepGraph, CVPR 2023, arXiv 2301.12900; Fang et al., Isomorphic Pruning, ECCV 2024,
        arXiv 2407.04616.
    """

    name: ClassVar[str] = "prune-channels"
    references: ClassVar[tuple[str, ...]] = ("arXiv:2301.12900", "arXiv:2407.04616")

    ratio: float | None = None
    params: float | None = None
    macs: float | None = None
    importance: str = "magnitude"
    scope: Scope = "uniform"
    axes: tuple[str, ...] | None = None
    max_ratio: float = 1.0
    keep_min: int = 1
    round_to: int = 1
    ratios: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    steps: int = 1
    regroup: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("ratio", "params", "macs") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "no budget"
            raise SpecError(
                f"{self.name}: found {found}, wanted exactly one of ratio (share to remove), params or macs (share "
                "that may remain), such as prune-channels{ratio=0.5}",
                option=given[1] if given else None,
            )
        share = "a share in (0, 1]"
        self.check_option("ratio", holds=self.ratio is None or 0 <= self.ratio < 1, wanted="a share in [0, 1)")
        for name in ("params", "macs"):
            value = getattr(self, name)
            self.check_option(name, holds=value is None or 0 < value <= 1, wanted=share)
        self.check_option("max_ratio", holds=0 < self.max_ratio <= 1, wanted=share)
        for name in ("keep_min", "round_to", "steps"):
            self.check_option(name, holds=getattr(self, name) >= 1, wanted="a number from 1 up")
        known = ", ".join(IMPORTANCES)
        self.check_option("importance", holds=self.importance in IMPORTANCES, wanted=f"one of {known}")
        unknown = set(self.axes or ()) - KINDS
        kinds = ", ".join(sorted(KINDS))
        self.check_option("axes", holds=not unknown and self.axes != (), wanted=f"kinds among {kinds}")
        self.check_option("ratios", holds=all(map(_readable, self.ratios)), wanted='texts such as "blocks.0.*=0.3"')

    def requires(self, program: Program) -> None:
        """Check that there are weights to score.

        Raises:
            PreconditionError: The program was captured on the meta device.
        """
        if any(tensor.is_meta for tensor in program.parameters.values()):
            raise PreconditionError(
                f"the weights of {program.source.class_name} are on the meta device, so nothing ranks them; load them "
                "first (a DependencyGraph needs none)"
            )

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Score, allocate and slice; see the class for the options."""
        ancestor = Ancestor.of(program, regroup=self.regroup)
        graph = ancestor.graph
        self._require_names(graph)
        limits = Limits(frozenset(self.axes) if self.axes else None, self.ignore, self.round_to)
        selection = select_axes(graph, limits)
        targets = self._targets(graph, ancestor.kept)
        kept, current = dict(ancestor.kept), program
        notes: list[str] = []
        allocation = None
        for target in targets:
            scores, remarks = ancestor.scores(current, kept, selection.groups, self.importance, context)
            allocation = self._allocate(graph, selection, scores, kept, target)
            kept = {**kept, **allocation.kept}
            notes.extend(remarks)
            if target is not targets[-1]:
                current = slice_axes(graph, _changed(graph, kept))
        return self._result(program, graph, selection, _changed(graph, kept), allocation, notes, context, ancestor)

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

    def _targets(self, graph: DependencyGraph, before: Mapping[str, tuple[int, ...]]) -> Sequence[_Target]:
        """One target a step, of the original's size."""
        if self.ratio is not None:
            return [_Target(ratio=ratio) for ratio in ratio_schedule(self.ratio, self.steps)]
        measure: Measure = "params" if self.params is not None else "macs"
        pricing = Pricing(graph, measure)
        whole, start = pricing({}), pricing({name: len(indices) for name, indices in before.items()})
        share = self.params if self.params is not None else self.macs
        return [_Target(cost=cost, pricing=pricing) for cost in cost_schedule(start, whole * (share or 1), self.steps)]

    def _allocate(
        self,
        graph: DependencyGraph,
        selection: Selection,
        scores: Mapping[str, np.ndarray],
        kept: Mapping[str, tuple[int, ...]],
        target: _Target,
    ) -> Allocation:
        scored = [group for group in selection.groups if group.id in scores]
        axes = [self._units(group, selection, scores[group.id], kept) for group in scored]
        if not axes:
            model = graph.program.source.class_name
            raise BudgetError(f"no axis of {model} may be pruned, so nothing can be removed; {_why(selection)}")
        budget = _Budget(scope=self.scope, ratio=target.ratio, target_cost=target.cost, cost=target.pricing)
        try:
            allocation = allocate(axes, **budget)
        except BudgetError as error:
            raise self._out_of_reach(error, target) from error
        if self.max_ratio < 1 or self.keep_min > 1:
            self._require_reached(allocation, allocate([_uncapped(axis) for axis in axes], **budget))
        return allocation

    def _require_reached(self, allocation: Allocation, uncapped: Allocation) -> None:
        """Refuse a ratio that the caps alone keep out of reach by a unit or more."""
        free = {item.pool: item.reached for item in uncapped.short}
        missed = [
            item
            for item in allocation.short
            if item.asked - item.reached >= item.unit and item.reached < free.get(item.pool, item.asked)
        ]
        if missed:
            nearest = math.floor(min(item.reached for item in missed) * 10_000) / 10_000
            raise BudgetError(
                f"ratio={float(missed[0].asked):g} cannot be reached under max_ratio={self.max_ratio:g} and "
                f"keep_min={self.keep_min}: of {missed[0].pool} only {float(missed[0].reached):.4g} may go"
                f"{f' (and {len(missed) - 1} more like it)' if len(missed) > 1 else ''}; the nearest reachable is "
                f"ratio={nearest:g}: ask for that, or relax max_ratio or keep_min",
                nearest,
            )

    def _out_of_reach(self, error: BudgetError, target: _Target) -> BudgetError:
        """The error in the unit that the user asked in: a share of the original."""
        if error.nearest is None or target.pricing is None:
            return error
        option = "params" if self.params is not None else "macs"
        whole = target.pricing({})
        share = math.ceil(error.nearest / whole * 10_000) / 10_000
        return BudgetError(
            f"{option}={getattr(self, option):g} cannot be reached: {error.nearest:,.0f} of {whole:,.0f} are left when "
            f"all has gone that may; ask for {option}={share:g} or more, or loosen what limits it: {error.limits}",
            share,
            error.limits,
        )

    def _units(
        self, group: Group, selection: Selection, scores: np.ndarray, kept: Mapping[str, tuple[int, ...]]
    ) -> AxisUnits:
        gone = set(range(group.size)) - set(kept.get(group.id, range(group.size)))
        return AxisUnits(
            id=group.id,
            scores=scores,
            weight=sum(member.indices().shape[1] for member in group.members),
            step=selection.steps[group.id],
            min_kept=min(self.keep_min, group.size),
            max_removed=int(exact_share(self.max_ratio) * group.size),
            class_key=group.iso_key,
            ratio=self._own_ratio(group),
            removed=frozenset(gone),
        )

    def _own_ratio(self, group: Group) -> Fraction | None:
        for text in self.ratios:
            pattern, _, number = text.rpartition("=")
            if fnmatch.fnmatchcase(group.members[0].tensor, pattern):
                return exact_ratio(float(number))
        return None

    # ---------------------------------------------------------------- result

    def _result(
        self,
        program: Program,
        graph: DependencyGraph,
        selection: Selection,
        kept: Kept,
        allocation: Allocation | None,
        notes: Sequence[str],
        context: PassContext,
        ancestor: Ancestor,
    ) -> PassResult:
        kept, used = _fuelled(kept, ancestor.kept, context.fuel)
        changed = kept != _changed(graph, ancestor.kept)
        rewritten = slice_axes(graph, kept) if changed else program
        whole = [f"{name} stays whole: {reason}" for name, reason in selection.whole]
        if allocation is not None:
            whole += [f"{name} stays whole: {reason}" for name, reason in allocation.whole]
            whole += [f"{pool}: {reason}" for pool, reason in allocation.limited]
        report = PassReport(
            name=self.name,
            spec=str(self),
            before=figures(program),
            after=figures(rewritten),
            frozen=tuple(dict.fromkeys(f"{axis.tensor} dimension {axis.dim}: {axis.reason}" for axis in graph.frozen)),
            refused=tuple(whole),
            notes=(*dict.fromkeys(notes), *_remarks(graph, kept)),
        )
        plan = make_plan(graph, kept, (str(self),))
        return PassResult(program=rewritten, plan=plan, changed=changed, report=report, fuel_used=used)


KINDS = frozenset((*BY_MARK.values(), "head", "kv_group", "queries_per_group", "pair", "channel", "hidden"))


class _Budget(TypedDict):
    """What ``allocate`` is asked for."""

    scope: Scope
    ratio: Fraction | None
    target_cost: float | None
    cost: Pricing | None


@dataclass(frozen=True)
class _Target:
    """The budget of one step."""

    ratio: Fraction | None = None
    cost: float | None = None
    pricing: Pricing | None = None


def exact_share(share: float) -> Fraction:
    """A share in (0, 1] as the number that its text stands for."""
    return Fraction(1) if share == 1 else exact_ratio(share)


def _readable(text: str) -> bool:
    pattern, separator, number = text.rpartition("=")
    try:
        return bool(pattern and separator) and 0 <= float(number) < 1
    except ValueError:
        return False


def _uncapped(axis: AxisUnits) -> AxisUnits:
    return replace(axis, min_kept=1, max_removed=None)


def _why(selection: Selection) -> str:
    """Why no axis is left to prune."""
    if not selection.whole:
        return "`graphopt inspect` tells why each is frozen"
    name, reason = selection.whole[0]
    others = f" (and {len(selection.whole) - 1} more)" if len(selection.whole) > 1 else ""
    return f"of those that are free, {name} stays whole: {reason}{others}"


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


def _remarks(graph: DependencyGraph, kept: Kept) -> list[str]:
    notes = []
    statistic = [group.id for group in graph.groups if group.id in kept and "statistic" in group.marks]
    if statistic:
        notes.append(
            f"a normalisation or mean runs over {len(statistic)} of {len(kept)} pruned axes: its statistic is now "
            "taken over what is kept"
        )
    pruned = {graph.leaf(name) for name in kept}
    regrouped = [dim for dim, _ in graph.divisors if pruned.intersection(leaves(dim))]
    if regrouped:
        notes.append(f"{len(regrouped)} GroupNorms across a concatenation were regrouped: their statistics moved")
    return notes
