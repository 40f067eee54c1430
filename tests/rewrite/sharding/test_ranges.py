"""Sets of indices: unions, parts, and who holds what."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.rewrite.sharding.ranges import (
    Ranges,
    count,
    even_parts,
    from_mask,
    is_partition,
    joined,
    moved,
    pieces,
    to_mask,
    within,
)

SIZE = 24
masks = st.lists(st.booleans(), min_size=SIZE, max_size=SIZE).map(np.array)
owners = st.lists(st.integers(0, 2), min_size=SIZE, max_size=SIZE)


@given(masks)
def test_masks_and_ranges_say_the_same(mask: np.ndarray) -> None:
    ranges = from_mask(mask)
    assert (to_mask(ranges, SIZE) == mask).all()
    assert count(ranges) == mask.sum()
    assert joined(reversed(ranges)) == ranges


@given(masks, st.integers(0, SIZE), st.integers(0, SIZE))
def test_within_is_an_intersection(mask: np.ndarray, low: int, high: int) -> None:
    limits = np.zeros(SIZE, dtype=bool)
    limits[low:high] = True
    assert (to_mask(within(from_mask(mask), (low, high)), SIZE) == (mask & limits)).all()


def test_neighbours_are_joined_and_empty_ranges_left_out() -> None:
    assert joined([(4, 6), (0, 2), (2, 3), (5, 5)]) == ((0, 3), (4, 6))
    assert moved(((0, 3), (4, 6)), 2) == ((2, 5), (6, 8))


@given(st.integers(1, 40), st.integers(1, 8), st.sampled_from([1, 2, 4]))
def test_even_parts_cover_all_and_differ_by_one_grain(units: int, parts: int, grain: int) -> None:
    found = even_parts(units * grain, parts, grain)
    sizes = [count(ranges) for ranges in found]
    assert sum(sizes) == units * grain
    assert max(sizes) - min(sizes) <= grain
    assert all(size % grain == 0 for size in sizes)
    assert is_partition(found, units * grain) == (units >= parts)


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ((((0, 2),), ((2, 4),)), True),
        ((((0, 2),), ((1, 4),)), False),
        ((((0, 2),), ((3, 4),)), False),
        ((((0, 4),), ()), False),
    ],
)
def test_a_partition_holds_each_index_once(parts: tuple[Ranges, ...], wanted: bool) -> None:
    assert is_partition(parts, 4) is wanted


@given(owners, masks)
def test_pieces_find_the_wanted_indices_in_order(owner: list[int], mask: np.ndarray) -> None:
    held = np.array(owner)
    parts = [from_mask(held == number) for number in range(3)]
    own = [np.flatnonzero(held == number) for number in range(3)]
    found = [
        index for piece in pieces(from_mask(mask), parts) for index in own[piece.owner][piece.start :][: piece.length]
    ]
    assert found == np.flatnonzero(mask).tolist()
