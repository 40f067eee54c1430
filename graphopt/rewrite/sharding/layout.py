"""How a value is spread over parts, and how an operator is computed on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import fx

from graphopt.dependency.ties import Path
from graphopt.rewrite.sharding.ranges import Ranges, count

if TYPE_CHECKING:
    from graphopt.rewrite.sharding.workshop import Workshop


@dataclass(frozen=True)
class Layout:
    """Which indices of a dimension each part holds, in ascending order.

    Attributes:
        dim: the dimension of the tensor, read as ``outer x size``.
        size: number of indices of the axis that is spread.
        parts: the indices of each part.
        outer: number of indices of what lies around the axis in the dimension, on the example inputs.
    """

    dim: int
    size: int
    parts: tuple[Ranges, ...]
    outer: int = 1

    def count(self, part: int) -> int:
        """Return how many indices of the axis a part holds."""
        return count(self.parts[part])

    def alike(self, other: Layout) -> bool:
        """Tell whether another layout is of the same axis of a tensor of the same shape."""
        return (self.dim, self.size, self.outer) == (other.dim, other.size, other.outer)


Given: TypeAlias = "Layout | Sequence[Layout] | None"
"""How the result of an operator is spread; None where every part has it whole; several for several results."""


@dataclass(frozen=True)
class Size:
    """A number among the arguments of an operator that is the size of a dimension.

    Attributes:
        whole: the size in the whole program, on the example inputs.
        part: the size in one part.
    """

    whole: int
    part: int


Edits: TypeAlias = Mapping[Path, Any]
"""Arguments of an operator that differ in a part, by name and position in a list: a `Size`, or what stands instead."""

Emit: TypeAlias = "Callable[[Workshop], list[fx.Node]]"


@dataclass(frozen=True)
class Recipe:
    """How an operator is computed in parts.

    Attributes:
        gives: how its result is spread.
        needs: what each part reads of an operand; operands that are left out are read whole.
        edits: for each part the arguments that differ; empty where none does.
        emit: computes all parts where the operator itself does not.
        reason: why something that is spread is gathered, where it is.
        ends: whether the axis ends there, as where it is summed over.
    """

    gives: Given = None
    needs: Mapping[fx.Node, Layout] = field(default_factory=dict)
    edits: tuple[Edits, ...] = ()
    emit: Emit | None = None
    reason: str = ""
    ends: bool = False


class NotSplitError(Exception):
    """Why an operator cannot be computed in parts; control flow of this package only.

    Args:
        reason: in one clause.
        ends: whether the axis ends there, as where it is summed over.
    """

    def __init__(self, reason: str, *, ends: bool = False) -> None:
        super().__init__(reason)
        self.ends = ends


WHOLE = Recipe()
"""Every part computes the whole from whole operands."""
