"""Unknowns of the dimension algebra: leaves that may stand for a dimension, may be frozen, and carry marks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from graphopt.dependency.terms import Dim, Factor, Leaf, Reason, Sum, concatenate, leaves


class Unknowns:
    """Union-find over dimension terms: what stands for what, what is frozen, what is marked.

    Attributes:
        where: the reason attached to what the algebra itself has to freeze; the analysis sets it per operator.
    """

    def __init__(self) -> None:
        self.where = Reason("boundaries do not nest")
        self._stamp = 0

    def fresh(self, size: int, frozen: Reason | None = None) -> Dim:
        """A new unknown of ``size`` indices; size one is the empty product, which couples nothing."""
        return () if size == 1 else (Leaf(size, frozen),)

    # ---------------------------------------------------------------- resolve

    def resolve(self, dim: Dim) -> Dim:
        """The dimension with every link followed and nested products flattened."""
        if all(self._settled(factor) for factor in dim):
            return dim
        self._settle(dim)
        return self._followed(dim)

    def _settled(self, factor: Factor) -> bool:
        if isinstance(factor, Leaf):
            return factor.link is None
        return factor.stamp == self._stamp

    def _settle(self, dim: Dim) -> None:
        """Compress every link below a dimension, the deepest first; a long chain of links is no recursion."""
        stack = list(dim)
        while stack:
            below = [factor for factor in _below(stack[-1]) if not self._compressed(factor)]
            if below:
                stack.extend(below)
            else:
                self._compress(stack.pop())

    def _compressed(self, factor: Factor) -> bool:
        """Whether following the link of a factor once resolves it."""
        if isinstance(factor, Leaf) and factor.link is not None:
            return all(self._settled(target) for target in factor.link)
        return self._settled(factor)

    def _compress(self, factor: Factor) -> None:
        if self._compressed(factor):
            return
        if isinstance(factor, Leaf):
            factor.link = self._followed(factor.link or ())
            return
        parts = [self._followed(part) for part in factor.parts]
        for whole in concatenate(parts):
            if isinstance(whole, Sum):
                factor.parts = whole.parts
        factor.stamp = self._stamp

    @staticmethod
    def _followed(dim: Dim) -> Dim:
        out: list[Factor] = []
        for factor in dim:
            linked = factor.link if isinstance(factor, Leaf) else None
            out.extend((factor,) if linked is None else linked)
        return tuple(out)

    def link(self, leaf: Leaf, dim: Dim) -> None:
        """Let a dimension stand for a leaf; what is frozen or marked stays so."""
        if len(dim) == 1 and dim[0] is leaf:
            return
        for target in leaves(dim):
            target.marks |= leaf.marks
            if leaf.frozen is not None and target.frozen is None:
                target.frozen = leaf.frozen
        leaf.link = dim
        self._stamp += 1

    # ------------------------------------------------------- freeze and mark

    def freeze(self, dim: Dim, reason: Reason) -> None:
        """Freeze every leaf of a dimension; the first reason stays."""
        for leaf in leaves(self.resolve(dim)):
            if leaf.frozen is None:
                leaf.frozen = reason

    def mark(self, dim: Dim, mark: str) -> None:
        """Put a mark on every leaf of a dimension."""
        for leaf in leaves(self.resolve(dim)):
            leaf.marks.add(mark)


def _below(factor: Factor) -> Iterator[Factor]:
    """The factors that a factor stands for."""
    if isinstance(factor, Leaf):
        yield from factor.link or ()
    else:
        yield from chain.from_iterable(factor.parts)
