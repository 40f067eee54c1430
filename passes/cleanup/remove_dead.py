"""remove-dead: what the weights' zeros make superfluous goes, and no output changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from graphopt.dependency.dead import DeadParts
from graphopt.dependency.graph import DependencyGraph
from graphopt.errors import PreconditionError
from graphopt.pass_manager import Pass, PassContext, PassReport, PassResult
from graphopt.pass_manager.figures import figures
from graphopt.plan import make_plan
from graphopt.program import Bypass, Program
from graphopt.proof.unchanged import check_unchanged
from graphopt.rewrite.ancestry import origin_of, plan_of
from graphopt.rewrite.bypassing import bypass
from graphopt.rewrite.constant_channels import ConstantChannels
from graphopt.rewrite.folding import fold
from graphopt.rewrite.slicing import slice_axes

Value = TypeVar("Value")
Kept = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class RemoveDead(Pass):
    """Remove channels, heads and hidden units that are zero or read by nothing, and branches that give zero.

    Nothing is chosen: an index goes where each of its members is zero or leads to no output, as structured sparse
    training, network slimming and masks of ``torch.nn.utils.prune`` leave them. Outputs stay what they were up to the
    order of additions, for inputs on which the model stays finite.

    Attributes:
        channels: remove indices of axes.
        constants: remove indices of axes that are constant, too: what they give goes into the biases behind them.
        branches: leave out sums with a value that is zero everywhere, and all that only it needs.

    References:
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, arXiv 1708.06519, cut
        channels whose scale is near zero; here a channel goes only where nothing of it is left.
    """

    name: ClassVar[str] = "remove-dead"
    references: ClassVar[tuple[str, ...]] = ("arXiv:1708.06519",)
    exact: ClassVar[bool] = True

    channels: bool = True
    constants: bool = True
    branches: bool = True

    def requires(self, program: Program) -> None:
        """Check that there are weights to look at.

        Raises:
            PreconditionError: the program was captured on the meta device, or its channels were pruned.
        """
        if any(tensor.is_meta for tensor in program.parameters.values()):
            raise PreconditionError(
                f"the weights of {program.source.class_name} are on the meta device, so nothing tells which are zero; "
                "load them first"
            )
        if program.lineage is not None and program.lineage.kept:
            raise PreconditionError(
                "channels were taken out of the program before, and its plan tells what is kept in indices of the "
                "captured one; name remove-dead once, before prune-channels"
            )

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Find what is dead and take it away; see the class for the options."""
        fuel = context.fuel
        graph = DependencyGraph(program)
        dead = DeadParts(graph)
        sums = _first(dead.idle_sums(), fuel) if self.branches else {}
        rest = program
        if sums:
            rest = _without(program, sums)
            graph = DependencyGraph(rest)
            dead = DeadParts(graph)
        found, channels = dead.kept() if self.channels else {}, None
        if self.channels and self.constants:
            channels = ConstantChannels(graph, dead)
            found = channels.kept()
        kept = _first(found, None if fuel is None else fuel - len(sums))
        folds = channels.folds(kept) if channels is not None else ()
        notes = (*_sum_lines(sums), *_axis_lines(graph, kept, dead.kept()), *_constant_lines(graph, dead, kept))
        if folds:
            graph = DependencyGraph(fold(rest, folds))
        rewritten = slice_axes(graph, kept) if kept else rest
        changed = rewritten is not program
        if changed and context.verify:
            check_unchanged(program, rewritten)
        report = PassReport(
            name=self.name,
            spec=str(self),
            before=figures(program),
            after=figures(rewritten),
            notes=notes,
        )
        plan = make_plan(graph, kept, (str(self),)) if kept else plan_of(rewritten, str(self))
        used = len(sums) + len(kept)
        return PassResult(program=rewritten, plan=plan, changed=changed, report=report, fuel_used=used)


def _first(found: Mapping[str, Value], fuel: int | None) -> dict[str, Value]:
    """As many entries as there is fuel for."""
    items = list(found.items())
    return dict(items if fuel is None else items[: max(fuel, 0)])


def _without(program: Program, sums: Mapping[str, str]) -> Program:
    """The program in which readers of each sum read its other operand."""
    earlier = () if program.lineage is None else program.lineage.bypassed
    idle = tuple(Bypass(name, "branch", {name: other}) for name, other in sums.items())
    return bypass(origin_of(program), (*earlier, *idle))


def _sum_lines(sums: Mapping[str, str]) -> Iterator[str]:
    for name, other in sums.items():
        yield f"{name} adds nothing but zeros to {other}, and is left out with what only it needs"


def _axis_lines(graph: DependencyGraph, kept: Kept, dead: Kept) -> Iterator[str]:
    """Lines about what goes: what is dead, and what is constant."""
    for group in graph.groups:
        if group.id not in kept:
            continue
        gone = group.size - len(kept[group.id])
        zero = min(gone, group.size - len(dead.get(group.id, range(group.size))))
        where = f"of the {group.kind} axis {group.id}"
        if zero:
            yield f"{zero} of {group.size} indices {where} are dead"
        if gone > zero:
            yield f"{gone - zero} of {group.size} indices {where} are constant, and what they give went into biases"


def _constant_lines(graph: DependencyGraph, dead: DeadParts, kept: Kept) -> Iterator[str]:
    """Lines about what a user may have taken for dead."""
    constants, zero = dead.constants(), dead.kept()
    for group in graph.groups:
        size = group.size
        folded = len(zero.get(group.id, range(size))) - len(kept.get(group.id, range(size)))
        left = constants.get(group.id, 0) - folded
        if left > 0:
            yield (
                f"{left} of {size} indices of the {group.kind} axis {group.id} stay: they compute nothing, but a bias "
                "or a normalisation shifts them, and what reads them takes no constant in its place, as a convolution "
                "that pads with zeros"
            )
