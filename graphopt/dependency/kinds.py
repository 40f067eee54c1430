"""What an axis is, told from its place on the graph and never from a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from graphopt.dependency.terms import Dim, Leaf, Sum, leaves

BY_MARK = {"qk": "qk_dim", "vo": "vo_dim", "expert": "expert", "state": "state", "residual": "residual"}
"""Kinds that a mark of the rules tells, the first that fits."""


def kind_of(leaf: Leaf, products: Sequence[Dim], beside: Sequence[Dim] = ()) -> str:
    """The kind of an axis: the first description that fits.

    Args:
        leaf: the axis.
        products: every product in the dimensions of parameters that holds the axis.
        beside: the other dimensions of parameters that have the axis as a dimension of its own.
    """
    marks = leaf.marks
    inside = [product for product in products if leaf in product]
    if "head" in marks and any(map(_holds_values, [*(_after(product, leaf) for product in inside), *beside])):
        return _head_kind(leaf, inside)
    if "qk" in marks and _rotated(leaf, products):
        return "pair"
    for mark, kind in BY_MARK.items():
        if mark in marks:
            return kind
    return "channel" if "produced-channel" in marks else "hidden"


def products_by_leaf(terms: Iterable[Dim]) -> dict[Leaf, list[Dim]]:
    """Every product in the terms, those inside sums included, by each of the axes in it or in its sums' parts."""
    found: dict[Leaf, list[Dim]] = {}
    for product in _products(terms):
        for leaf in dict.fromkeys(leaves(product)):
            found.setdefault(leaf, []).append(product)
    return found


def _products(terms: Iterable[Dim]) -> Iterator[Dim]:
    for dim in terms:
        yield dim
        for factor in dim:
            if isinstance(factor, Sum):
                yield from _products(factor.parts)


def _after(product: Dim, leaf: Leaf) -> Dim:
    """The factors inside an axis."""
    return product[product.index(leaf) + 1 :]


def _holds_values(factors: Dim) -> bool:
    """Whether a factor is contracted in attention."""
    return any(isinstance(factor, Sum) or factor.marks & {"qk", "vo"} for factor in factors)


def _head_kind(leaf: Leaf, products: Sequence[Dim]) -> str:
    """A head, or one of the two axes that a product of heads consists of: groups, and the queries of each."""
    for product in products:
        place = product.index(leaf)
        around = product[max(0, place - 1) : place + 2]
        before, after = (factor if isinstance(factor, Leaf) else None for factor in (around[0], around[-1]))
        if after is not None and after is not leaf and {"repeat", "head"} <= after.marks:
            return "kv_group"
        if before is not None and before is not leaf and "head" in before.marks and "repeat" in leaf.marks:
            return "queries_per_group"
    return "head"


def _rotated(leaf: Leaf, products: Sequence[Dim]) -> bool:
    """Whether the axis is coupled to itself: twice in one sum, or paired by an inner factor of two."""
    for product in products:
        for position, factor in enumerate(product):
            if isinstance(factor, Sum) and sum(part == (leaf,) for part in factor.parts) > 1:
                return True
            if factor is leaf and position + 1 < len(product) and product[position + 1].size == 2:
                return True
    return False
