"""What of a program could be pruned, what that would save, and what is frozen and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from graphopt.cost import cost
from graphopt.dependency.graph import DependencyGraph, FrozenAxis, Group
from graphopt.errors import GraphoptError
from graphopt.pass_manager.suggestions import nearest
from graphopt.program import Program
from graphopt.report.savings import Savings
from graphopt.report.unit_timing import UnitTimer, UnitTiming
from graphopt.report.widths import OddWidth, odd_widths, unit_steps


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """One coupling group and what it weighs.

    Attributes:
        id: Stable name of the axis.
        kind: What the axis is, such as head, residual or channel.
        size: Number of units.
        members: Number of tensor dimensions that the axis lies on.
        marks: What to know before pruning it, such as ``statistic``.
        round_to: For each kind of device of what the kept units should be a multiple, so that widths suit it.
        parameters_per_unit: Weights that go with one unit.
        macs_per_unit: Multiply-accumulates of the example inputs that go with one unit.
        parameters_of_half: Weights that go with half of the units.
        macs_of_half: Multiply-accumulates of the example inputs that go with half of the units.
        timing: Measured time of the operators that it lies on, None where nothing was measured.
    """

    id: str
    kind: str
    size: int
    members: int
    marks: tuple[str, ...]
    round_to: Mapping[str, int]
    parameters_per_unit: int
    macs_per_unit: int
    parameters_of_half: int
    macs_of_half: int
    timing: UnitTiming | None = None

    @property
    def seconds_per_unit(self) -> float | None:
        """Measured seconds that one unit takes, on the average of half of them; None where nothing was measured."""
        return None if self.timing is None else self.timing.seconds_saved / (self.size // 2)

    def to_dict(self) -> dict[str, Any]:
        """Return the group as values that JSON knows; times only where something was measured."""
        data = asdict(self) | {"marks": list(self.marks), "round_to": dict(self.round_to)}
        timing = data.pop("timing")
        if timing is None:
            return data
        return data | {"seconds_per_unit": self.seconds_per_unit, "timing": timing}


RANKINGS: Mapping[str, Callable[[GroupSummary], float]] = {
    "macs": lambda group: group.macs_per_unit,
    "parameters": lambda group: group.parameters_per_unit,
    "milliseconds": lambda group: group.seconds_per_unit or 0.0,
}
"""What groups can be ranked by; of equals the one whose parameters come first stays first."""


@dataclass(frozen=True, kw_only=True)
class FrozenReason:
    """Everything that one reason keeps from being pruned.

    Attributes:
        reason: The reason.
        axes: Tensor, dimension and size of each part of a dimension.
    """

    reason: str
    axes: tuple[FrozenAxis, ...]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What of a program could be pruned, and what not.

    Attributes:
        model: Class of the model.
        fingerprint: Identity of its structure.
        dynamic_batch: Whether the batch is free.
        notes: Remarks of the capture.
        totals: Figures of the whole program, unit in the name.
        by: What the groups are ranked by: a key of `RANKINGS`.
        count: How many groups there are.
        groups: Those of the coupling groups whose units save most, one unit against another; the first saves most.
        odd_widths: Widths that some kind of device computes slowly, whether they could be pruned or not.
        frozen: What is frozen, by reason, the most frequent first.
    """

    model: str
    fingerprint: str
    dynamic_batch: bool
    notes: tuple[str, ...]
    totals: Mapping[str, float]
    by: str
    count: int
    groups: tuple[GroupSummary, ...]
    odd_widths: tuple[OddWidth, ...]
    frozen: tuple[FrozenReason, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as values that JSON knows."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "dynamic_batch": self.dynamic_batch,
            "notes": list(self.notes),
            "totals": dict(self.totals),
            "by": self.by,
            "count": self.count,
            "groups": [group.to_dict() for group in self.groups],
            "odd_widths": [{**asdict(width), "places": list(width.places)} for width in self.odd_widths],
            "frozen": [
                {
                    "reason": entry.reason,
                    "axes": [{"tensor": axis.tensor, "dim": axis.dim, "size": axis.size} for axis in entry.axes],
                }
                for entry in self.frozen
            ],
        }


def inspect_program(
    program: Program, *, regroup: bool = False, by: str = "macs", top: int | None = None, measure: bool = False
) -> Inspection:
    """Analyse a program, weigh its coupling groups, and rank them by what one of their units saves.

    Args:
        program: A captured program; on the meta device too where nothing is measured.
        regroup: Offer axes under a GroupNorm whose groups straddle a concatenation too.
        by: ``macs``, ``parameters``, or ``milliseconds``, which are measured.
        top: List only so many groups, the first ones.
        measure: Time the operators that each group lies on, whole and with half of its units, and the program.

    Raises:
        GraphoptError: There is no such ranking, or a program on the meta device is to be measured.
    """
    if by not in RANKINGS:
        raise GraphoptError(f"found {by!r} to rank by, wanted one of {', '.join(RANKINGS)}")
    graph = DependencyGraph(program, regroup=regroup)
    savings, timer = Savings(graph), UnitTimer(graph) if measure or by == "milliseconds" else None
    groups = [_summary(graph, group, savings, timer) for group in graph.groups]
    total = cost(program)
    totals: dict[str, float] = {
        "parameters": total.parameters,
        "parameter_bytes": total.parameter_bytes,
        "macs": total.macs,
        "activation_peak_bytes": total.activation_peak_bytes,
    }
    if timer is not None:
        latency = timer.total()
        totals |= {"seconds": latency.median_seconds, "noise_seconds": latency.iqr_seconds / 2}
    return Inspection(
        model=program.source.class_name,
        fingerprint=program.source.fingerprint,
        dynamic_batch=program.dynamic_batch,
        notes=program.notes,
        totals=totals,
        by=by,
        count=len(groups),
        groups=tuple(sorted(groups, key=RANKINGS[by], reverse=True)[:top]),
        odd_widths=odd_widths(graph),
        frozen=_by_reason(graph),
    )


def _summary(graph: DependencyGraph, group: Group, savings: Savings, timer: UnitTimer | None) -> GroupSummary:
    return GroupSummary(
        id=group.id,
        kind=group.kind,
        size=group.size,
        members=len(group.members),
        marks=tuple(sorted(group.marks)),
        round_to=unit_steps(graph, group),
        parameters_per_unit=savings.parameters(group, 1),
        macs_per_unit=savings.macs(group, 1),
        parameters_of_half=savings.parameters(group, group.size // 2),
        macs_of_half=savings.macs(group, group.size // 2),
        timing=None if timer is None else timer.time(group),
    )


def explain_parameter(program: Program, place: str, *, regroup: bool = False) -> str:
    """Tell what the dimensions of a parameter are coupled to, or why they are frozen.

    Args:
        program: A captured program.
        place: ``NAME`` for every dimension of a parameter or buffer, ``NAME:DIM`` for one.
        regroup: As for `inspect_program`.

    Raises:
        GraphoptError: There is no such tensor or dimension.
    """
    name, separator, number = place.rpartition(":")
    if not separator:
        name = place
    tensors = program.parameters
    if name not in tensors:
        raise GraphoptError(f"found no parameter or buffer called {name!r}; {nearest(name, tensors)}")
    if separator and not number.removeprefix("-").isdecimal():
        raise GraphoptError(f"found {number!r} after {name}:, wanted the number of a dimension, such as {name}:0")
    dims = [int(number)] if separator else list(range(tensors[name].ndim))
    if not dims:
        return f"{name} is a single number, so there is nothing to prune"
    graph = DependencyGraph(program, regroup=regroup)
    return "\n".join(graph.explain(name, dim) for dim in dims)


def _by_reason(graph: DependencyGraph) -> tuple[FrozenReason, ...]:
    found: dict[str, list[FrozenAxis]] = {}
    for axis in graph.frozen:
        found.setdefault(axis.reason, []).append(axis)
    ordered = sorted(found.items(), key=lambda entry: -len(entry[1]))
    return tuple(FrozenReason(reason=reason, axes=tuple(axes)) for reason, axes in ordered)
