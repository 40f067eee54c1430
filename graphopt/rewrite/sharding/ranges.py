"""Sets of indices as ranges, and who holds which of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np

from graphopt.dependency.placement import BoolArray

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Indices from each first number up to the second, ascending, apart from each other."""


class Piece(NamedTuple):
    """Consecutive indices that one part holds.

    Attributes:
        owner: number of the part.
        start: where they begin in what the part holds.
        length: how many there are.
    """

    owner: int
    start: int
    length: int


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the union of ranges: ascending, neighbours merged, empty ones left out."""
    out: list[tuple[int, int]] = []
    for start, stop in sorted(pair for pair in ranges if pair[0] < pair[1]):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(stop, out[-1][1]))
        else:
            out.append((start, stop))
    return tuple(out)


def count(ranges: Ranges) -> int:
    """Return the number of indices."""
    return sum(stop - start for start, stop in ranges)


def moved(ranges: Ranges, distance: int) -> Ranges:
    """Return ranges with a distance added to every index."""
    return tuple((start + distance, stop + distance) for start, stop in ranges)


def within(ranges: Ranges, limits: tuple[int, int]) -> Ranges:
    """Return the indices that lie from the first limit up to the second."""
    return joined((max(start, limits[0]), min(stop, limits[1])) for start, stop in ranges)


def even_parts(size: int, parts: int, grain: int = 1) -> tuple[Ranges, ...]:
    """Cut ``size`` indices into parts whose sizes differ by at most ``grain``, a divisor of the size."""
    base, extra = divmod(size // grain, parts)
    bounds = [grain * (number * base + min(number, extra)) for number in range(parts + 1)]
    return tuple(joined([pair]) for pair in pairwise(bounds))


def to_mask(ranges: Ranges, size: int) -> BoolArray:
    """Return which of ``size`` indices the ranges hold, shape ``(size,)``."""
    mask = np.zeros(size, dtype=np.bool_)
    for start, stop in ranges:
        mask[start:stop] = True
    return mask


def from_mask(mask: BoolArray) -> Ranges:
    """Return the ranges of the indices at which a mask of shape ``(size,)`` is set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))


def is_partition(parts: Sequence[Ranges], size: int) -> bool:
    """Tell whether every index from 0 to ``size - 1`` is in one part and no part is empty."""
    whole = joined(pair for ranges in parts for pair in ranges)
    return whole == ((0, size),) and sum(map(count, parts)) == size and all(parts)


def pieces(wanted: Ranges, parts: Sequence[Ranges]) -> list[Piece]:
    """Find who holds the wanted indices, in their order; ``parts`` are a partition."""
    held: list[tuple[int, int, Piece]] = []
    for owner, ranges in enumerate(parts):
        offset = 0
        for start, stop in ranges:
            held.append((start, stop, Piece(owner, offset, stop - start)))
            offset += stop - start
    held.sort()
    found: list[Piece] = []
    for first, last in wanted:
        for start, stop, piece in held:
            low, high = max(first, start), min(last, stop)
            if low < high:
                _append(found, Piece(piece.owner, piece.start + low - start, high - low))
    return found


def _append(found: list[Piece], piece: Piece) -> None:
    """Add a piece, as one with the last where it continues it."""
    last = found[-1] if found else None
    if last is not None and last.owner == piece.owner and last.start + last.length == piece.start:
        found[-1] = Piece(last.owner, last.start, last.length + piece.length)
    else:
        found.append(piece)
