"""Budgets of layers: how much has to go, and how much goes with some units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.allocate import exact_ratio
from graphopt.cost import Cost, cost
from graphopt.errors import BudgetError
from graphopt.passes.layers.selection import Candidates, outermost
from graphopt.passes.layers.units import Unit, UnitKind, Units
from graphopt.program import Program

Amount = Callable[[Sequence[Unit]], float]


@dataclass(frozen=True)
class Budget:
    """What is asked for.

    Attributes:
        need: How much has to go.
        amount: How much goes with some units together, in the same measure.
    """

    need: float
    amount: Amount

    def trimmed(self, chosen: Sequence[Unit], losses: dict[str, float]) -> tuple[Unit, ...]:
        """Put back what need not go, the units of greatest loss first: together units may free more than alone."""
        left = list(chosen)
        for unit in sorted(chosen, key=lambda unit: -losses[unit.id]):
            rest = [other for other in left if other is not unit]
            if self.amount(rest) >= self.need:
                left = rest
        return tuple(left)


def count_budget(count: int, candidates: Candidates) -> Budget:
    """The budget that takes so many units.

    Raises:
        BudgetError: so many may not go.
    """
    most = sum(candidates.weight(unit) for unit in outermost(candidates.units))
    if count > most:
        raise BudgetError(f"count={count} cannot be reached: {most} may go; ask for count={most} or fewer", most)
    return Budget(count, len)


def ratio_budget(ratio: float, candidates: Candidates, units: Units, kind: UnitKind) -> Budget:
    """The budget that takes that share of the units of a kind; one that holds others counts as many as it holds.

    Raises:
        BudgetError: so many may not go.
    """
    known = units.of_kind(kind)
    total = len([unit for unit in known if not any(other.nodes < unit.nodes for other in known)])
    most = sum(candidates.weight(unit) for unit in outermost(candidates.units))
    need = math.ceil(exact_ratio(ratio) * total)
    if need > most:
        share = math.floor(most / total * 10_000) / 10_000
        raise BudgetError(
            f"ratio={ratio:g} cannot be reached: that is {need} of {total}, and {most} may go; ask for ratio={share:g} "
            "or less, or loosen ignore, keep_first or keep_last",
            share,
        )
    return Budget(need, lambda chosen: sum(map(candidates.weight, chosen)))


def share_budget(option: str, share: float, program: Program, candidates: Candidates, units: Units) -> Budget:
    """The budget after which a share of the captured model's cost remains.

    Args:
        option: ``params``, ``macs`` or ``latency``.
        share: the share, in (0, 1].
        program: what is left of the model so far.
        candidates: units that may go.
        units: all units, with the seconds that they take for ``latency``.

    Raises:
        BudgetError: all that may go is not enough.
    """
    if option == "latency":
        whole = present = units.seconds or 0.0
    else:
        origin = program if program.lineage is None else program.lineage.origin
        whole, present = _figure(option, cost(origin)), _figure(option, cost(program))

    def amount(chosen: Sequence[Unit]) -> float:
        gone = units.removed(chosen)
        return {"params": gone.parameters, "macs": gone.macs, "latency": gone.seconds}[option] or 0.0

    need, most = present - share * whole, amount(outermost(candidates.units))
    if need > most:
        reached = math.ceil((present - most) / whole * 10_000) / 10_000
        raise BudgetError(
            f"{option}={share:g} cannot be reached: {reached:g} are left when all has gone that may; ask for "
            f"{option}={reached:g} or more, or loosen ignore, keep_first or keep_last",
            reached,
        )
    return Budget(need, amount)


def _figure(option: str, figures: Cost) -> float:
    return figures.parameters_without_vocabulary if option == "params" else figures.macs
