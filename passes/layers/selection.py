"""Which branches and blocks may go, and which of them do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from graphopt.allocate.knapsack import choose
from graphopt.errors import SpecError
from graphopt.pass_manager.suggestions import nearest
from graphopt.passes.layers.units import Unit, UnitKind, Units


def find_layers(units: Units, texts: Sequence[str | int], kind: UnitKind) -> tuple[Unit, ...]:
    """The units that an option names.

    Args:
        units: what may be left out.
        texts: each a number of a unit of the kind, or a pattern that its id or module fits; where no unit of the kind
            fits, one of the other kind.
        kind: ``branch`` or ``block``.

    Raises:
        SpecError: a text names nothing, or something that cannot be left out.
    """
    found: dict[str, Unit] = {}
    for text in map(str, texts):
        fits = [unit for unit in units.of_kind(kind) if unit.number == text or _fits(unit, text)]
        others = units.of_kind("block" if kind == "branch" else "branch")
        fits = fits or [unit for unit in others if _fits(unit, text)]
        if not fits:
            raise _nothing(units, kind, text, "layers")
        found.update({unit.id: unit for unit in fits})
    return outermost(units.in_order(found.values()))


def outermost(units: Sequence[Unit]) -> tuple[Unit, ...]:
    """Those units that lie in no other one of them, in their order."""
    return tuple(unit for unit in units if not any(_holds(other, unit) for other in units))


@dataclass(frozen=True)
class Candidates:
    """Units that a budget may take, each followed by those that it holds.

    Attributes:
        units: the units.
        spans: how many of the following units each one holds.
        weights: how many units that hold no other one each one stands for.
        whole: lines on the units that stay whatever the budget.
    """

    units: tuple[Unit, ...]
    spans: tuple[int, ...]
    weights: tuple[int, ...]
    whole: tuple[str, ...]

    @classmethod
    def of(cls, units: Units, kind: UnitKind, ignore: Sequence[str], keep_first: int, keep_last: int) -> Candidates:
        """Find the units of a kind that may go.

        Raises:
            SpecError: a pattern to ignore fits nothing.
        """
        known = units.in_order(units.of_kind(kind))
        for pattern in ignore:
            if not any(_fits(unit, pattern) for unit in known):
                raise _nothing(units, kind, pattern, "ignore")
        stays = dict(_stays(known, ignore, keep_first, keep_last))
        stays |= dict(_follow(known, frozenset(stays)))
        free = [unit for unit in known if unit.id not in stays]
        ordered = tuple(_nested(free))
        spans = tuple(sum(_holds(unit, other) for other in ordered) for unit in ordered)
        weights = tuple(
            max(1, sum(_holds(unit, other) and not span for other, span in zip(ordered, spans, strict=True)))
            for unit in ordered
        )
        return cls(
            ordered, spans, weights, tuple(f"{unit} stays: {stays[unit.id]}" for unit in known if unit.id in stays)
        )

    def weight(self, unit: Unit) -> int:
        """How many units that hold no other one a unit stands for."""
        return self.weights[self.units.index(unit)]

    def cheapest(self, losses: Mapping[str, float], amounts: Sequence[float], need: float) -> tuple[Unit, ...]:
        """The units whose amounts come to the need with the least sum of losses, in the order of execution."""
        places = choose([losses[unit.id] for unit in self.units], amounts, self.spans, need)
        return tuple(self.units[place] for place in places)


def _stays(units: Sequence[Unit], ignore: Sequence[str], first: int, last: int) -> Iterator[tuple[str, str]]:
    for place, unit in enumerate(units):
        pattern = next((pattern for pattern in ignore if _fits(unit, pattern)), None)
        if pattern is not None:
            yield unit.id, f"ignored by {pattern!r}"
        elif place < first:
            yield unit.id, f"keep_first={first}"
        elif place >= len(units) - last:
            yield unit.id, f"keep_last={last}"


def _follow(units: Sequence[Unit], kept: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yield units that stay because of others: those that hold what stays, lie in it, or overlap with something."""
    free = [unit for unit in units if unit.id not in kept]
    for place, unit in enumerate(free):
        held = next((other for other in units if other.id in kept and _holds(unit, other)), None)
        around = next((other for other in units if other.id in kept and _holds(other, unit)), None)
        clash = next((other for other in free[:place] if _clash(unit, other)), None)
        if held:
            yield unit.id, f"it holds {held.id}, which stays"
        elif around:
            yield unit.id, f"it lies in {around.id}, which stays"
        elif clash:
            yield unit.id, f"it shares operators with {clash.id}, and neither holds the other"


def _nested(units: Sequence[Unit]) -> Iterator[Unit]:
    """Yield every unit followed by those that it holds."""
    for unit in outermost(units):
        yield unit
        yield from _nested([other for other in units if _holds(unit, other)])


def _holds(unit: Unit, other: Unit) -> bool:
    """Whether a unit leaves out another one too; of two that leave out the same, the first in the alphabet does."""
    if unit is other or not other.nodes <= unit.nodes:
        return False
    return len(other.nodes) < len(unit.nodes) or unit.id < other.id


def _clash(unit: Unit, other: Unit) -> bool:
    return bool(unit.nodes & other.nodes) and unit is not other and not _holds(unit, other) and not _holds(other, unit)


def _fits(unit: Unit, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in unit.names)


def _nothing(units: Units, kind: UnitKind, text: str, option: str) -> SpecError:
    for name in (text, f"{kind}.{text}"):
        if name in units.refused:
            return SpecError(f"{name} cannot be left out: {units.refused[name]}", option=option)
    names = {name for unit in units.of_kind(kind) for name in unit.names if name}
    return SpecError(f"found no {kind} for {text!r} in {option}; {nearest(text, names)}", option=option)
