"""Terms of the dimension algebra: what a dimension of a tensor is made of.

A dimension (``Dim``) is a product of factors, outermost first; the empty product has size one. A factor is a
``Leaf``, an unknown of the algebra, or a ``Sum``, the concatenation of dimensions. Leaves are union-find nodes:
a linked leaf stands for the dimension it links to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Reason:
    """Why an axis cannot be pruned.

    Attributes:
        text: what stands in the way, in one clause.
        operator: the operator that says so, or an empty string.
        where: the source line of the user's model, or an empty string.
    """

    text: str
    operator: str = ""
    where: str = ""

    def __str__(self) -> str:
        parts = [self.text]
        if self.operator:
            parts.append(f"by {self.operator}")
        if self.where:
            parts.append(f"at {self.where}")
        return " ".join(parts)


@dataclass(eq=False, slots=True)
class Leaf:
    """An unknown of the algebra: free, frozen with a reason, or linked to the dimension it stands for."""

    size: int
    frozen: Reason | None = None
    marks: set[str] = field(default_factory=set)
    link: tuple[Factor, ...] | None = None

    def __repr__(self) -> str:
        return f"Leaf({self.size}{', frozen' if self.frozen else ''})"


@dataclass(eq=False, slots=True)
class Sum:
    """The concatenation of at least two dimensions, in order. ``stamp`` tells when it was last seen resolved."""

    parts: tuple[tuple[Factor, ...], ...]
    size: int
    stamp: int = -1

    def __repr__(self) -> str:
        return f"Sum{self.parts}"


Factor: TypeAlias = Leaf | Sum
Dim: TypeAlias = tuple[Factor, ...]


def dim_size(dim: Dim) -> int:
    """Number of indices of a dimension."""
    return math.prod(factor.size for factor in dim)


def concatenate(parts: Iterable[Dim]) -> Dim:
    """The dimension that holds ``parts`` one after the other; sums are flattened and empty parts are left out."""
    flat: list[Dim] = []
    for part in parts:
        if len(part) == 1 and isinstance(part[0], Sum):
            flat.extend(part[0].parts)
        elif dim_size(part):
            flat.append(part)
    if len(flat) == 1:
        return flat[0]
    return (Sum(tuple(flat), sum(dim_size(part) for part in flat)),)


def leaves(dim: Dim) -> Iterator[Leaf]:
    """Every leaf occurrence in a resolved dimension, in order."""
    for factor in dim:
        if isinstance(factor, Leaf):
            yield factor
        else:
            for part in factor.parts:
                yield from leaves(part)


def all_frozen(dim: Dim) -> bool:
    """Whether no free leaf is left in a resolved dimension."""
    return all(leaf.frozen is not None for leaf in leaves(dim))


def same(first: Dim, second: Dim) -> bool:
    """Whether two resolved dimensions are the same term."""
    if first is second:
        return True
    if len(first) != len(second):
        return False
    return all(_same_factor(left, right) for left, right in zip(first, second, strict=True))


def _same_factor(first: Factor, second: Factor) -> bool:
    if first is second:
        return True
    if isinstance(first, Leaf) or isinstance(second, Leaf) or len(first.parts) != len(second.parts):
        return False
    return all(same(left, right) for left, right in zip(first.parts, second.parts, strict=True))
