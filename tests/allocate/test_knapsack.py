"""Knapsack over nested things: the least loss among all choices, and amounts that keep what was promised."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.allocate.knapsack import RESOLUTION, choose

Forest = list[tuple[float, int, "Forest"]]
LEAVES = st.tuples(st.integers(0, 9).map(float), st.integers(0, 6), st.just([]))
FORESTS = st.lists(
    st.recursive(
        LEAVES,
        lambda inner: st.tuples(st.integers(0, 20).map(float), st.integers(0, 12), st.lists(inner, max_size=2)),
        max_leaves=4,
    ),
    min_size=1,
    max_size=4,
)


def flat(forest: Forest) -> tuple[list[float], list[int], list[int]]:
    """Losses, amounts and spans, every item followed by those it holds."""
    losses: list[float] = []
    amounts: list[int] = []
    spans: list[int] = []
    for loss, amount, held in forest:
        inner = flat(held)
        losses += [loss, *inner[0]]
        amounts += [amount, *inner[1]]
        spans += [len(inner[0]), *inner[2]]
    return losses, amounts, spans


def least_loss(losses: list[float], amounts: list[int], spans: list[int], need: int) -> float:
    """The least loss over every choice of items none of which holds another."""
    best = math.inf
    for chosen in itertools.product((False, True), repeat=len(losses)):
        places = [place for place, taken in enumerate(chosen) if taken]
        nested = any(place < other <= place + spans[place] for place in places for other in places)
        if not nested and sum(amounts[place] for place in places) >= need:
            best = min(best, sum(losses[place] for place in places))
    return best


@given(FORESTS, st.integers(1, 30))
def test_no_choice_loses_less(forest: Forest, need: int) -> None:
    losses, amounts, spans = flat(forest)
    if len(losses) > 10:
        return
    chosen = choose(losses, amounts, spans, need)
    best = least_loss(losses, amounts, spans, need)
    assert not any(place < other <= place + spans[place] for place in chosen for other in chosen)
    if math.isfinite(best):
        assert sum(losses[place] for place in chosen) == best
        assert sum(amounts[place] for place in chosen) >= need
    else:
        assert chosen == tuple(place for place in range(len(spans)) if not _held(place, spans))


def _held(place: int, spans: list[int]) -> bool:
    return any(outer < place <= outer + spans[outer] for outer in range(place))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 1)), min_size=1, max_size=8), st.floats(0.1, 0.9))
def test_rounding_never_breaks_the_promise(items: list[tuple[float, float]], share: float) -> None:
    losses, amounts = [loss for loss, _ in items], [amount for _, amount in items]
    need = share * sum(amounts)
    chosen = choose(losses, amounts, [0] * len(items), need)
    assert sum(amounts[place] for place in chosen) >= need * (1 - 1e-12)
    rounded = sum(int(amount * RESOLUTION / need) for amount in amounts)
    if rounded >= RESOLUTION:
        exact = least_loss(
            losses, [int(amount * RESOLUTION / need) for amount in amounts], [0] * len(items), RESOLUTION
        )
        assert sum(losses[place] for place in chosen) == pytest.approx(exact)


def test_whole_numbers_are_exact_beyond_the_resolution() -> None:
    million = 10**6
    assert choose([3.0, 1.0, 1.5], [2 * million, million, million], [0, 0, 0], 2 * million) == (1, 2)
    assert choose([2.0, 1.0, 1.5], [2 * million, million, million], [0, 0, 0], 2 * million) == (0,)


def test_nothing_is_needed() -> None:
    assert choose([1.0], [5], [0], 0) == ()


def test_equal_losses_take_no_more_than_needed() -> None:
    assert len(choose([0.0, 0.0, 0.0], [1, 1, 1], [0, 0, 0], 2)) == 2
