"""The dimension algebra: split, cut, and unify dimensions described as symbolic terms.

Everything here is linear in the number of factors, never in the number of channels. No operation fails half-way:
where two descriptions cannot be reconciled, the smallest sub-terms that take part are frozen with the reason.
"""

from __future__ import annotations

import math

from graphopt.dependency.terms import Dim, Factor, Leaf, Reason, Sum, all_frozen, concatenate, dim_size, leaves, same
from graphopt.dependency.unknowns import Unknowns

MAX_ALIGNMENT_STEPS = 1024
MAX_CHUNKS = 64


class Algebra(Unknowns):
    """Split, cut and unify, over union-find."""

    # ------------------------------------------------------------------ split

    def split(self, dim: Dim, inner: int) -> tuple[Dim, Dim]:
        """Read a dimension as ``outer x inner``.

        Args:
            dim: the dimension to read.
            inner: number of indices of the inner part; it must divide the size.

        Raises:
            ValueError: if ``inner`` does not divide the size.
        """
        dim = self.resolve(dim)
        total = dim_size(dim)
        if inner <= 0 or total % inner:
            raise ValueError(f"a dimension of {total} cannot be split by {inner}")
        if inner == 1:
            return dim, ()
        if inner == total:
            return (), dim
        if total == 0 or all_frozen(dim):
            reason = self._first_reason(dim)
            return self.fresh(total // inner, reason), self.fresh(inner, reason)
        return self._split_product(dim, inner)

    def _split_product(self, dim: Dim, inner: int) -> tuple[Dim, Dim]:
        tail: Dim = ()
        position = len(dim)
        while inner % dim[position - 1].size == 0:
            position -= 1
            tail = (dim[position], *tail)
            inner //= dim[position].size
            if inner == 1:
                return dim[:position], tail
        factor = dim[position - 1]
        common = math.gcd(factor.size, inner)
        outer, nested = self._split_factor(factor, common)
        head, tail = self.resolve(dim[: position - 1] + outer), self.resolve(nested + tail)
        if common == inner:
            return head, tail
        return self._freeze_block(head, inner // common, tail)

    def _freeze_block(self, head: Dim, inner: int, tail: Dim) -> tuple[Dim, Dim]:
        """Split ``head`` by ``inner`` although no factor boundary nests: freeze the factors that straddle."""
        position, block = len(head), 1
        while block % inner:
            position -= 1
            block *= head[position].size
        self.freeze(head[position:], self.where)
        lead, inner_leaf = self.fresh(block // inner, self.where), self.fresh(inner, self.where)
        return head[:position] + lead, inner_leaf + tail

    def _split_factor(self, factor: Factor, inner: int) -> tuple[Dim, Dim]:
        """Split one factor by a divisor of its size; a sum that straddles loses what cannot be told apart."""
        if inner == 1:
            return (factor,), ()
        if inner == factor.size:
            return (), (factor,)
        if isinstance(factor, Leaf):
            outer_leaf = Leaf(factor.size // inner, factor.frozen, set(factor.marks))
            inner_leaf = Leaf(inner, factor.frozen, set(factor.marks))
            self.link(factor, (outer_leaf, inner_leaf))
            return (outer_leaf,), (inner_leaf,)
        return self._split_sum(factor, inner)

    def _split_sum(self, total: Sum, inner: int) -> tuple[Dim, Dim]:
        sizes = [dim_size(part) for part in total.parts]
        if all(size % inner == 0 for size in sizes):
            return self._split_parts(total, inner)
        boundaries = {sum(sizes[:count]) for count in range(len(sizes))}
        if all(position in boundaries for position in range(0, total.size, inner)):
            return self._unify_chunks(total, inner)
        common = math.gcd(inner, *sizes)
        if common > 1:
            outer, nested = self._split_parts(total, common)
            lead, rest = self._freeze_block(self.resolve(outer), inner // common, ())
            return lead, self.resolve(rest + nested)
        if total.size // inner <= MAX_CHUNKS:
            return self._unify_chunks(total, inner)
        return self._freeze_block((total,), inner, ())

    def _split_parts(self, total: Sum, inner: int) -> tuple[Dim, Dim]:
        """Split every part by a common divisor; the inner parts become one."""
        outers: list[Dim] = []
        shared: Dim | None = None
        for part in total.parts:
            outer, nested = self.split(part, inner)
            outers.append(outer)
            if shared is None:
                shared = nested
            else:
                self.unify(shared, nested)
        return self.resolve(concatenate(outers)), self.resolve(shared or ())

    def _unify_chunks(self, total: Sum, inner: int) -> tuple[Dim, Dim]:
        """Read a sum as equal chunks told apart by position: the chunks become one, their number is fixed."""
        first, *others = self._chunks(total, inner)
        for chunk in others:
            self.unify(first, chunk)
        count = total.size // inner
        return (Sum(((),) * count, count),), self.resolve(first)

    def _chunks(self, total: Sum, inner: int) -> list[Dim]:
        chunks: list[Dim] = []
        parts: list[Dim] = []
        room, rest = inner, list(total.parts[::-1])
        while rest:
            part = rest.pop()
            if dim_size(part) > room:
                part, right = self.cut(part, room)
                rest.append(right)
            parts.append(part)
            room -= dim_size(part)
            if room == 0:
                chunks.append(concatenate(parts))
                parts, room = [], inner
        return chunks

    # -------------------------------------------------------------------- cut

    def cut(self, dim: Dim, position: int) -> tuple[Dim, Dim]:
        """Cut a dimension into the indices before ``position`` and those from it on.

        Raises:
            ValueError: if the position does not lie strictly inside.
        """
        dim = self.resolve(dim)
        total = dim_size(dim)
        if not 0 < position < total:
            raise ValueError(f"a dimension of {total} cannot be cut at {position}")
        if all_frozen(dim):
            reason = self._first_reason(dim)
            return self.fresh(position, reason), self.fresh(total - position, reason)
        if len(dim) > 1:
            return self._cut_product(dim, position)
        factor = dim[0]
        if isinstance(factor, Leaf):
            return self._cut_leaf(factor, position)
        return self._cut_sum(factor, position)

    def _cut_leaf(self, leaf: Leaf, position: int) -> tuple[Dim, Dim]:
        left, right = self.fresh(position, leaf.frozen), self.fresh(leaf.size - position, leaf.frozen)
        for part in (*left, *right):
            if isinstance(part, Leaf):
                part.marks |= leaf.marks
        self.link(leaf, concatenate((left, right)))
        return left, right

    def _cut_sum(self, total: Sum, position: int) -> tuple[Dim, Dim]:
        offset = 0
        for index, part in enumerate(total.parts):
            size = dim_size(part)
            if offset == position:
                return concatenate(total.parts[:index]), concatenate(total.parts[index:])
            if offset + size > position:
                left, right = self.cut(part, position - offset)
                before = (*total.parts[:index], left)
                after = (right, *total.parts[index + 1 :])
                return self.resolve(concatenate(before)), self.resolve(concatenate(after))
            offset += size
        raise ValueError(f"no index {position} in a sum of {total.size}")

    def _cut_product(self, dim: Dim, position: int) -> tuple[Dim, Dim]:
        """Cut ``lead x rest``: inside a copy of ``rest``, that copy's lead index stands alone and cannot go."""
        lead, rest = dim[:1], dim[1:]
        copies, remainder = divmod(position, dim_size(rest))
        if remainder == 0:
            left, right = self.cut(lead, copies)
            return self.resolve(left + rest), self.resolve(right + rest)
        rest_left, rest_right = self.cut(rest, remainder)
        before, after = self._isolate(lead, copies)
        lefts = [before + rest] if before is not None else []
        rights = [after + rest] if after is not None else []
        return (
            self.resolve(concatenate([*(self.resolve(dim) for dim in lefts), rest_left])),
            self.resolve(concatenate([rest_right, *(self.resolve(dim) for dim in rights)])),
        )

    def _isolate(self, lead: Dim, index: int) -> tuple[Dim | None, Dim | None]:
        """The indices of ``lead`` before and after ``index``; None where there are none."""
        size = dim_size(lead)
        before: Dim | None = None
        if index:
            before, lead = self.cut(lead, index)
        if size - index == 1:
            return before, None
        return before, self.cut(lead, 1)[1]

    def _first_reason(self, dim: Dim) -> Reason:
        for leaf in leaves(dim):
            if leaf.frozen is not None:
                return leaf.frozen
        return self.where

    # ------------------------------------------------------------------ unify

    def unify(self, first: Dim, second: Dim) -> None:
        """Make two dimensions the same; where their boundaries do not nest, freeze the smallest blocks that differ.

        Raises:
            ValueError: if the sizes differ.
        """
        first, second = self.resolve(first), self.resolve(second)
        if same(first, second):
            return
        if dim_size(first) != dim_size(second):
            raise ValueError(f"dimensions of {dim_size(first)} and {dim_size(second)} cannot be one")
        if all_frozen(first) or dim_size(first) == 0:
            self.freeze(second, self._first_reason(first))
        elif all_frozen(second):
            self.freeze(first, self._first_reason(second))
        elif len(first) == 1 and isinstance(first[0], Leaf):
            self.link(first[0], second)
        elif len(second) == 1 and isinstance(second[0], Leaf):
            self.link(second[0], first)
        else:
            self._align(first, second)

    def _align(self, first: Dim, second: Dim) -> None:
        """Unify two products from the inside, one pair of factors at a time."""
        while first and second:
            left, right = first[-1], second[-1]
            if left.size == right.size:
                first, second = first[:-1], second[:-1]
                self._unify_factors(left, right)
            else:
                first, second = self._nest(first, second)
            first, second = self.resolve(first), self.resolve(second)

    def _nest(self, first: Dim, second: Dim) -> tuple[Dim, Dim]:
        """Refine the innermost factors until they have the same size, or drop the blocks that cannot be."""
        left, right = first[-1], second[-1]
        common = math.gcd(left.size, right.size)
        if common > 1 and self._divides(left, common) and self._divides(right, common):
            return self._refined(first, common), self._refined(second, common)
        ends = self._common_block(first, second)
        first_block, second_block = first[ends[0] :], second[ends[1] :]
        if len(first_block) == 1 or len(second_block) == 1:
            self._align_parts([first_block], [second_block])
        else:
            self.freeze(first_block, self.where)
            self.freeze(second_block, self.where)
        return first[: ends[0]], second[: ends[1]]

    @staticmethod
    def _divides(factor: Factor, inner: int) -> bool:
        return isinstance(factor, Leaf) or all(dim_size(part) % inner == 0 for part in factor.parts)

    def _refined(self, dim: Dim, inner: int) -> Dim:
        """A dimension with a boundary before its innermost ``inner`` indices; it may hold what was refined just now."""
        outer, nested = self.split(dim, inner)
        return outer + nested

    @staticmethod
    def _common_block(first: Dim, second: Dim) -> tuple[int, int]:
        """Start positions of the shortest suffixes of equal size."""
        left, right = len(first) - 1, len(second) - 1
        left_size, right_size = first[left].size, second[right].size
        while left_size != right_size:
            if left_size < right_size:
                left -= 1
                left_size *= first[left].size
            else:
                right -= 1
                right_size *= second[right].size
        return left, right

    def _unify_factors(self, first: Factor, second: Factor) -> None:
        left, right = self.resolve((first,)), self.resolve((second,))
        lone_sums = len(left) == 1 and len(right) == 1 and isinstance(left[0], Sum) and isinstance(right[0], Sum)
        if lone_sums and not same(left, right):
            self._align_parts([left], [right])
        else:
            self.unify(left, right)

    def _align_parts(self, first: list[Dim], second: list[Dim]) -> None:
        """Unify two concatenations from the left, cutting the longer part at the shorter one's end."""
        for _ in range(MAX_ALIGNMENT_STEPS):
            if not first or not second:
                return
            first, second = self._expose(first), self._expose(second)
            left, right = dim_size(first[0]), dim_size(second[0])
            if left > right:
                first = [*self.cut(first[0], right), *first[1:]]
            elif right > left:
                second = [*self.cut(second[0], left), *second[1:]]
            else:
                self.unify(first[0], second[0])
                first, second = first[1:], second[1:]
        for dim in (*first, *second):
            self.freeze(dim, self.where)

    def _expose(self, parts: list[Dim]) -> list[Dim]:
        head = self.resolve(parts[0])
        if len(head) == 1 and isinstance(head[0], Sum):
            return [*head[0].parts, *parts[1:]]
        return [head, *parts[1:]]
