"""prune-layers: leave out whole branches or blocks, by name or down to a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt.errors import PreconditionError, SpecError
from graphopt.pass_manager import Pass, PassContext, PassReport, PassResult
from graphopt.pass_manager.figures import figures
from graphopt.passes.layers.budget import Budget, count_budget, ratio_budget, share_budget
from graphopt.passes.layers.output_loss import OutputLoss
from graphopt.passes.layers.scoring import IMPORTANCES
from graphopt.passes.layers.selection import Candidates, find_layers
from graphopt.passes.layers.units import Unit, Units
from graphopt.program import Program
from graphopt.rewrite.ancestry import origin_of, plan_of
from graphopt.rewrite.bypassing import bypass

BUDGETS = ("layers", "count", "ratio", "params", "macs", "latency")


@dataclass(frozen=True, kw_only=True)
class PruneLayers(Pass):
    """Leave out branches or blocks; whoever read what they give reads what enters them.

    Either `layers` says which, or exactly one budget says how many: those go whose importances sum up to the least.

    Attributes:
        units: what is left out: ``block`` or ``branch``, what a residual add adds.
        layers: units by number, or patterns of their ids or modules, such as ``[3,"up_blocks.0.resnets.1"]``.
        importance: what is lost with a unit: ``magnitude``, the sum of its absolute weights; ``bi``, one minus the
            cosine of what enters and leaves it; ``taylor``, the absolute sum of gradient times weight; ``output-loss``,
            the squared distance of the outputs without it; ``random``.
        count: number of units to leave out.
        ratio: share of the units that are there to leave out, in [0, 1).
        params: share of the captured model's parameters outside vocabulary tables that may remain, in (0, 1].
        macs: share of its multiply-accumulates that may remain, in (0, 1].
        latency: share of the program's measured seconds that may remain, in (0, 1].
        ignore: patterns of ids, modules, or kinds of branches; what fits stays.
        keep_first: the first units stay.
        keep_last: the last units stay.
        sample: name of the input that regions are seen from; the one most like the output by default.

    References:
        Men et al., ShortGPT, arXiv 2403.03853; Zhang et al., LAPTOP-Diff, arXiv 2404.11098; Kim et al., BK-SDM,
        ECCV 2024, arXiv 2305.15798; Fang et al., TinyFusion, CVPR 2025, arXiv 2412.01199.
    """

    name: ClassVar[str] = "prune-layers"
    references: ClassVar[tuple[str, ...]] = (
        "arXiv:2403.03853",
        "arXiv:2404.11098",
        "arXiv:2305.15798",
        "arXiv:2412.01199",
    )

    units: Literal["block", "branch"] = "block"
    layers: tuple[int | str, ...] | None = None
    importance: str = "magnitude"
    count: int | None = None
    ratio: float | None = None
    params: float | None = None
    macs: float | None = None
    latency: float | None = None
    ignore: tuple[str, ...] = ()
    keep_first: int = 0
    keep_last: int = 0
    sample: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise SpecError(
                f"{self.name}: found {' and '.join(given) or 'no budget'}, wanted exactly one of layers (which go), "
                "count (how many go), ratio (share of the units to remove), params, macs or latency (share that may "
                "remain), such as prune-layers{ratio=0.25}",
                option=given[1] if given else None,
            )
        self.check_option("layers", holds=self.layers != (), wanted="at least one branch or block")
        self.check_option("count", holds=self.count is None or self.count >= 1, wanted="a number from 1 up")
        self.check_option("ratio", holds=self.ratio is None or 0 <= self.ratio < 1, wanted="a share in [0, 1)")
        for name in ("params", "macs", "latency"):
            value = getattr(self, name)
            self.check_option(name, holds=value is None or 0 < value <= 1, wanted="a share in (0, 1]")
        for name in ("keep_first", "keep_last"):
            self.check_option(name, holds=getattr(self, name) >= 0, wanted="a number from 0 up")
            free = self.layers is None or not getattr(self, name)
            self.check_option(name, holds=free, wanted="0 where layers says which units go")
        self.check_option("ignore", holds=self.layers is None or not self.ignore, wanted="none with layers")
        known = ", ".join(IMPORTANCES)
        self.check_option("importance", holds=self.importance in IMPORTANCES, wanted=f"one of {known}")

    def requires(self, program: Program) -> None:
        """Check that there are weights, and that no axis was sliced yet.

        Raises:
            PreconditionError: the program was captured on the meta device, or its channels were pruned.
        """
        if any(tensor.is_meta for tensor in program.parameters.values()):
            raise PreconditionError(
                f"the weights of {program.source.class_name} are on the meta device, so nothing ranks its layers; load "
                "them first (graphopt.find_regions needs none)"
            )
        if program.lineage is not None and program.lineage.kept:
            raise PreconditionError(
                "the program's channels were pruned before, and their axes run through its layers; put prune-layers "
                "before prune-channels"
            )

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Score, choose and bypass; see the class for the options."""
        units = Units(program, sample=self.sample, measure=self.latency is not None)
        if self.layers is not None:
            chosen = find_layers(units, self.layers, self.units)
            return self._result(program, units, chosen, context, notes=_lines(chosen, {}))
        candidates = Candidates.of(units, self.units, self.ignore, self.keep_first, self.keep_last)
        if not candidates.units:
            raise PreconditionError(
                f"{program.source.class_name} has no {self.units} that may be left out{_why(units)}"
            )
        budget = self._budget(program, units, candidates)
        scores = IMPORTANCES[self.importance].score(program, candidates.units, context)
        losses = {unit.id: score for unit, score in zip(candidates.units, scores, strict=True)}
        amounts = [budget.amount([unit]) for unit in candidates.units]
        chosen = budget.trimmed(candidates.cheapest(losses, amounts, budget.need), losses)
        notes = _lines(chosen, {unit.id: f", {self.importance} {losses[unit.id]:.4g}" for unit in chosen})
        if self.importance == "output-loss" and chosen:
            notes.append(_additivity(OutputLoss(program, context)(chosen), sum(losses[unit.id] for unit in chosen)))
        return self._result(program, units, chosen, context, notes=notes, whole=candidates.whole)

    def _budget(self, program: Program, units: Units, candidates: Candidates) -> Budget:
        if self.count is not None:
            return count_budget(self.count, candidates)
        if self.ratio is not None:
            return ratio_budget(self.ratio, candidates, units, self.units)
        option, share = next(
            (name, value)
            for name, value in (("params", self.params), ("macs", self.macs), ("latency", self.latency))
            if value is not None
        )
        return share_budget(option, share, program, candidates, units)

    def _result(
        self,
        program: Program,
        units: Units,
        chosen: Sequence[Unit],
        context: PassContext,
        *,
        notes: Sequence[str],
        whole: Sequence[str] = (),
    ) -> PassResult:
        burnt = chosen if context.fuel is None else chosen[: context.fuel]
        rewritten = program
        if burnt:
            earlier = () if program.lineage is None else program.lineage.bypassed
            rewritten = bypass(origin_of(program), (*earlier, *(unit.bypass for unit in burnt)))
        report = PassReport(
            name=self.name,
            spec=str(self),
            before=figures(program),
            after=figures(rewritten),
            frozen=tuple(f"{name} is not offered: {reason}" for name, reason in units.refused.items()),
            refused=tuple(whole),
            notes=(*notes, *_unread(program, rewritten)),
        )
        plan = plan_of(rewritten, str(self))
        return PassResult(program=rewritten, plan=plan, changed=bool(burnt), report=report, fuel_used=len(burnt))


def _why(units: Units) -> str:
    name, reason = next(iter(units.refused.items()), ("", ""))
    return f": {name}: {reason}" if name else "; graphopt.find_regions shows what was found"


def _additivity(joint: float, total: float) -> str:
    """How far the losses of single units add up to that of all together."""
    times = f", {joint / total:.3g} times as much" if total else ""
    return f"output-loss of all together: {joint:.4g}; the sum of their losses is {total:.4g}{times}"


def _lines(chosen: Sequence[Unit], remarks: Mapping[str, str]) -> list[str]:
    """What is left out, one line a unit."""
    lines = []
    for unit in chosen:
        replaced = ", ".join(f"{before} for {after}" for after, before in unit.bypass.replaced.items())
        size = f"{unit.cost.parameters:,} parameters, {unit.cost.macs:,} MACs"
        lines.append(f"{unit} is left out, {replaced}: {size}{remarks.get(unit.id, '')}")
    return lines


def _unread(program: Program, rewritten: Program) -> Iterator[str]:
    """Inputs that nothing reads any more."""
    used = {node.name for node in program.graph_module.graph.find_nodes(op="placeholder") if node.users}
    for node in rewritten.graph_module.graph.find_nodes(op="placeholder"):
        if node.name in used and not node.users:
            yield f"the input {node.name} is read by nothing any more"
