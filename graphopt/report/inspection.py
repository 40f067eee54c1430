"""What of a program could be pruned, what that would save, and what is frozen and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from graphopt.cost import cost
from graphopt.dependency.graph import DependencyGraph, FrozenAxis
from graphopt.errors import GraphoptError
from graphopt.pass_manager.suggestions import nearest
from graphopt.program import Program
from graphopt.report.savings import Savings


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """One coupling group and what it weighs.

    Attributes:
        id: Stable name of the axis.
        kind: What the axis is, such as head, residual or channel.
        size: Number of units.
        members: Number of tensor dimensions that the axis lies on.
        marks: What to know before pruning it, such as ``statistic``.
        parameters_per_unit: Weights that go with one unit.
        parameters_of_half: Weights that go with half of the units.
        macs_of_half: Multiply-accumulates of the example inputs that go with half of the units.
    """

    id: str
    kind: str
    size: int
    members: int
    marks: tuple[str, ...]
    parameters_per_unit: int
    parameters_of_half: int
    macs_of_half: int


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
        groups: The coupling groups, in the order of the parameters.
        frozen: What is frozen, by reason, the most frequent first.
    """

    model: str
    fingerprint: str
    dynamic_batch: bool
    notes: tuple[str, ...]
    totals: Mapping[str, int]
    groups: tuple[GroupSummary, ...]
    frozen: tuple[FrozenReason, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as values that JSON knows."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "dynamic_batch": self.dynamic_batch,
            "notes": list(self.notes),
            "totals": dict(self.totals),
            "groups": [{**asdict(group), "marks": list(group.marks)} for group in self.groups],
            "frozen": [
                {
                    "reason": entry.reason,
                    "axes": [{"tensor": axis.tensor, "dim": axis.dim, "size": axis.size} for axis in entry.axes],
                }
                for entry in self.frozen
            ],
        }


def inspect_program(program: Program, *, regroup: bool = False) -> Inspection:
    """Analyse a program and weigh its coupling groups.

    Args:
        program: A captured program, on the meta device or with weights.
        regroup: Offer axes under a GroupNorm whose groups straddle a concatenation too.
    """
    graph = DependencyGraph(program, regroup=regroup)
    savings = Savings(graph)
    total = cost(program)
    return Inspection(
        model=program.source.class_name,
        fingerprint=program.source.fingerprint,
        dynamic_batch=program.dynamic_batch,
        notes=program.notes,
        totals={
            "parameters": total.parameters,
            "parameter_bytes": total.parameter_bytes,
            "macs": total.macs,
            "activation_peak_bytes": total.activation_peak_bytes,
        },
        groups=tuple(
            GroupSummary(
                id=group.id,
                kind=group.kind,
                size=group.size,
                members=len(group.members),
                marks=tuple(sorted(group.marks)),
                parameters_per_unit=savings.parameters(group, 1),
                parameters_of_half=savings.parameters(group, group.size // 2),
                macs_of_half=savings.macs(group, group.size // 2),
            )
            for group in graph.groups
        ),
        frozen=_by_reason(graph),
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
