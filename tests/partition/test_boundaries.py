"""Where a row of nodes is divided: the narrowest cuts, whole stretches, neighbours that feed each other."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from graphopt.partition.boundaries import Row, items_by_place, starts_of_items


@st.composite
def rows(draw: st.DrawFn) -> Row:
    count = draw(st.integers(1, 24))
    numbers = st.integers(0, 9)
    reads = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=3 * count))
    glued = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=3))
    return Row(
        costs=tuple(float(draw(numbers)) for _ in range(count)),
        reads=frozenset((min(pair), max(pair)) for pair in reads if pair[0] != pair[1]),
        sizes=tuple(draw(numbers) for _ in range(count)),
        glued=tuple((min(pair), max(pair)) for pair in glued),
    )


@given(rows())
def test_crossing_bytes_and_allowed_places_follow_their_definitions(row: Row) -> None:
    for place, crossing in enumerate(row.crossing_bytes()):
        live = {producer for producer, reader in row.reads if producer < place <= reader}
        assert crossing == sum(row.sizes[producer] for producer in live)
    for place, allowed in enumerate(row.allowed()):
        assert allowed == (place > 0 and not any(first < place <= last for first, last in row.glued))


@given(rows(), st.integers(1, 4), st.integers(1, 30))
def test_items_are_whole_stretches_and_few(row: Row, devices: int, max_items: int) -> None:
    starts = starts_of_items(row, devices, max_items)
    item = items_by_place(starts, len(row.costs))
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert len(starts) <= max_items
    assert item[-1] == len(starts) - 1
    assert all(0 <= right - left <= 1 for left, right in pairwise(item))
    for first, last in row.glued:
        assert item[first] == item[last]


def test_the_cut_between_costly_nodes_is_where_least_crosses() -> None:
    sizes = (9, 9, 2, 9, 9)
    row = Row((1.0, 0.0, 0.0, 0.0, 1.0), frozenset((place, place + 1) for place in range(4)), sizes)
    assert starts_of_items(row, 2, 100) == [0, 3]


def test_cheap_neighbours_that_do_not_feed_each_other_are_joined_and_costly_ones_are_not() -> None:
    # 0 feeds 1, 2, 3, which feed 4: three projections between two large operators.
    reads = frozenset([(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)])
    cheap = Row((100.0, 2.0, 2.0, 2.0, 100.0), reads, (1,) * 5)
    assert starts_of_items(cheap, 2, 400) == [0, 1, 4]
    costly = Row((100.0, 50.0, 50.0, 50.0, 100.0), reads, (1,) * 5)
    assert starts_of_items(costly, 2, 400) == [0, 1, 2, 3, 4]
