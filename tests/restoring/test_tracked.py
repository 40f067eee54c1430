"""Integers that remember where they came from."""

import copy
import functools
import math

import torch

from graphopt.restoring.tracked import (
    Place,
    Term,
    TrackedInt,
    evaluate,
    expression_of,
    places_in,
    told_apart,
    watching,
)

HEADS = Place("attn", (("attribute", "heads"),))
SIZE = Place("attn", (("attribute", "config"), ("item", "sizes"), ("item", 1)))


def test_arithmetic_gives_the_number_and_its_expression() -> None:
    heads, size = TrackedInt(4, HEADS), TrackedInt(8, SIZE)
    found = (heads * size + 3) // 5 - -heads % 3
    assert found == (4 * 8 + 3) // 5 - -4 % 3
    assert isinstance(found, TrackedInt)
    assert set(places_in(found.expression)) == {HEADS, SIZE}
    assert evaluate(found.expression, {HEADS: 2, SIZE: 6}.__getitem__) == (2 * 6 + 3) // 5 - -2 % 3


def test_a_plain_operand_on_either_side_is_kept_as_it_is() -> None:
    heads = TrackedInt(4, HEADS)
    assert expression_of(32 // heads) == Term("//", 32, HEADS)
    assert expression_of(heads * 2) == Term("*", HEADS, 2)
    assert expression_of(math.prod([heads, 3])) == Term("*", Term("*", 1, HEADS), 3)
    assert type(heads * 0.5) is float
    assert type(heads**-0.5) is float


def test_it_passes_for_an_integer() -> None:
    heads = TrackedInt(4, HEADS)
    assert {4: "four"}[heads] == "four"
    assert heads == 4
    assert heads != 5
    assert list(range(heads)) == [0, 1, 2, 3]
    assert torch.zeros(heads, 8).view(2, heads // 2, 8).shape == (2, 2, 8)
    assert copy.deepcopy(heads) is heads
    assert type(copy.copy([heads])[0]) is TrackedInt


def test_a_watcher_sees_what_is_equal_while_it_watches() -> None:
    seen: list[tuple[int, int]] = []
    heads = TrackedInt(4, HEADS)
    with watching(lambda left, right: seen.append((int(left), int(right)))):
        assert heads == 4
        assert heads != 5
    assert heads == 4
    assert seen == [(4, 4)]


def test_a_place_is_written_as_code() -> None:
    assert str(HEADS) == "attn.heads"
    assert str(SIZE) == "attn.config['sizes'][1]"
    assert str(Place("", (("attribute", "width"),))) == "width"


def test_a_cache_tells_tracked_numbers_from_plain_ones() -> None:
    @functools.cache
    def doubled(number: int) -> int:
        return number * 2

    doubled(4)
    with told_apart() as hashed:
        found = doubled(TrackedInt(4, HEADS))
        assert hashed.any
        assert doubled(TrackedInt(4, HEADS)) is found
    assert expression_of(found) == Term("*", HEADS, 2)
    assert type(doubled(4)) is int
    assert {4: "plain"}[TrackedInt(4, HEADS)] == "plain"
