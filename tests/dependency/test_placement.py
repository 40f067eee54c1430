"""Kept indices and placements, against a filter of the denotation."""

import json
from collections.abc import Mapping

import numpy as np
from dependency.terms import SCRIPTS, Step, World, brute_mask, denote, run
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.dependency.axes import Algebra
from graphopt.dependency.placement import BoolArray, Box, Placement, kept_mask, kept_size, occurrences
from graphopt.dependency.terms import Dim, Leaf, concatenate, dim_size, leaves

MANY = settings(max_examples=5 * settings().max_examples)


def masks_of(world: World, random: np.random.Generator) -> dict[Leaf, BoolArray]:
    """A random choice of what every leaf of a world keeps; some leaves have no entry."""
    found = dict.fromkeys(leaf for dim in world.terms for leaf in leaves(world.algebra.resolve(dim)))
    return {leaf: random.random(leaf.size) < 0.6 for leaf in found if random.random() < 0.8}


def placements(dim: Dim) -> Mapping[Leaf, Placement]:
    boxes: dict[Leaf, list[Box]] = {}
    for leaf, box in occurrences(dim):
        boxes.setdefault(leaf, []).append(box)
    return {leaf: Placement(leaf.size, tuple(own)) for leaf, own in boxes.items()}


@MANY
@given(SCRIPTS, st.integers(0, 1000))
def test_kept_indices_are_the_filter_of_the_denotation(script: list[Step], seed: int) -> None:
    world = run(script)
    masks = masks_of(world, np.random.default_rng(seed))
    counts = {leaf: int(mask.sum()) for leaf, mask in masks.items()}
    for dim in map(world.algebra.resolve, world.terms):
        expected = brute_mask(dim, masks)
        assert kept_mask(dim, masks).tolist() == expected
        assert kept_size(dim, counts) == sum(expected)


@MANY
@given(SCRIPTS)
def test_a_placement_lists_where_each_index_lies(script: list[Step]) -> None:
    world = run(script)
    for dim in map(world.algebra.resolve, world.terms):
        labels = denote(dim, free=False)
        for leaf, placement in placements(dim).items():
            rows = [
                {flat for flat, here in enumerate(labels) if (id(leaf), index) in here} for index in range(leaf.size)
            ]
            assert [set(row) for row in placement.indices().tolist()] == rows


@given(SCRIPTS)
def test_placements_survive_json(script: list[Step]) -> None:
    world = run(script)
    for dim in map(world.algebra.resolve, world.terms):
        for leaf, placement in placements(dim).items():
            again = Placement.from_list(leaf.size, json.loads(json.dumps(placement.to_list())))
            assert again == placement
            assert np.array_equal(again.indices(), placement.indices())


class TestByHand:
    def test_heads_times_values(self) -> None:
        algebra = Algebra()
        heads, values = algebra.fresh(2), algebra.fresh(3)
        found = placements(heads + values)
        assert found[heads[0]].indices().tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found[values[0]].indices().tolist() == [[0, 3], [1, 4], [2, 5]]

    def test_three_gates_in_one_dimension(self) -> None:
        algebra = Algebra()
        head, inner = algebra.fresh(2), algebra.fresh(2)
        found = placements(concatenate([head + inner] * 3))
        assert found[head[0]].indices().tolist() == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
        assert found[inner[0]].indices().tolist() == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]

    def test_neighbouring_repeats_are_written_as_one(self) -> None:
        algebra = Algebra()
        lead, middle, inner = algebra.fresh(5), algebra.fresh(3), algebra.fresh(2)
        assert placements(lead + middle + inner)[lead[0]].boxes == (Box(0, 6, ((6, 1),)),)
        assert placements(lead + middle + inner)[middle[0]].boxes == (Box(0, 2, ((5, 6), (2, 1))),)

    def test_a_leaf_that_multiplies_itself(self) -> None:
        algebra = Algebra()
        leaf = algebra.fresh(3)
        masks = {leaf[0]: np.array([True, False, True])}
        assert np.flatnonzero(kept_mask(leaf + leaf, masks)).tolist() == [0, 2, 6, 8]
        assert kept_size(leaf + leaf, {leaf[0]: 2}) == 4

    def test_leaves_without_an_entry_stay_whole(self) -> None:
        algebra = Algebra()
        dim = algebra.fresh(2) + concatenate([algebra.fresh(2), algebra.fresh(1)])
        assert kept_mask(dim, {}).tolist() == [True] * dim_size(dim)
        assert kept_size(dim, {}) == dim_size(dim)
