"""The dimension algebra by itself: what operations denote, in any order, at any size."""

import sys
import time

import pytest
from dependency.terms import FROZEN, NAMES, SCRIPTS, Step, World, denote, run, units
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.dependency.axes import MAX_ALIGNMENT_STEPS, Algebra
from graphopt.dependency.terms import Dim, Leaf, Reason, Sum, all_frozen, concatenate, dim_size, leaves, same

MANY = settings(max_examples=5 * settings().max_examples)
NUMBERS = st.integers(0, 40)
SECONDS = 5.0


def text(dim: Dim) -> str:
    """A resolved dimension in short: leaves by size, ``!`` where frozen, the same letter for the same leaf."""
    names: dict[Leaf, str] = {}

    def factor_text(factor: Leaf | Sum) -> str:
        if isinstance(factor, Sum):
            return "(" + "+".join(product_text(part) for part in factor.parts) + ")"
        name = names.setdefault(factor, "abcdefghijklmnop"[len(names)])
        return f"{name}{factor.size}{'!' if factor.frozen else ''}"

    def product_text(product: Dim) -> str:
        return "*".join(map(factor_text, product)) or "1"

    return product_text(dim)


class TestProperties:
    @MANY
    @given(SCRIPTS)
    def test_every_tie_holds_ever_after(self, script: list[Step]) -> None:
        assert run(script).broken() == ""

    @MANY
    @given(SCRIPTS)
    def test_everything_holds_after_each_step(self, script: list[Step]) -> None:
        world = World()
        for step in script[:10]:
            step.run(world)
            assert world.broken() == ""

    @MANY
    @given(SCRIPTS, NUMBERS, NUMBERS)
    def test_unify_is_symmetric_and_idempotent(self, script: list[Step], first: int, second: int) -> None:
        left, right = (_unified(script, *pair) for pair in ((first, second), (second, first)))
        assert units(left) == units(right)
        again = left.terms[first % len(left.terms)], left.terms[second % len(left.terms)]
        if dim_size(again[0]) == dim_size(again[1]):
            before = units(left)
            left.algebra.unify(*again)
            assert units(left) == before

    @MANY
    @given(SCRIPTS, st.randoms(use_true_random=False))
    def test_any_order_of_ties_is_sound(self, script: list[Step], random: object) -> None:
        world = run([step for step in script if step.name not in {"unify", "rotate", "shuffle"}])
        resolve = world.algebra.resolve
        by_size: dict[int, list[Dim]] = {}
        for dim in world.terms:
            by_size.setdefault(dim_size(dim), []).append(dim)
        pairs = [(dims[0], other) for dims in by_size.values() for other in dims[1:]]
        random.shuffle(pairs)
        for pair in pairs:
            world.unify(*pair)
        assert world.broken() == ""
        assert all(denote(resolve(one)) == denote(resolve(other)) for one, other in pairs)

    @given(SCRIPTS, NUMBERS, NUMBERS)
    def test_split_then_join_denotes_the_same(self, script: list[Step], which: int, number: int) -> None:
        world = run(script)
        if not world.terms:
            return
        dim = world.terms[which % len(world.terms)]
        divisors = [k for k in range(1, dim_size(dim) + 1) if dim_size(dim) % k == 0]
        inner = divisors[number % len(divisors)]
        outer_dim, inner_dim = world.algebra.split(dim, inner)
        assert dim_size(inner_dim) == inner
        resolve = world.algebra.resolve
        assert denote(resolve(outer_dim + inner_dim)) == denote(resolve(dim))

    @given(SCRIPTS, NUMBERS, NUMBERS)
    def test_cut_then_concatenate_denotes_the_same(self, script: list[Step], which: int, number: int) -> None:
        world = run(script)
        long = [dim for dim in world.terms if dim_size(dim) > 1]
        if not long:
            return
        dim = long[which % len(long)]
        position = 1 + number % (dim_size(dim) - 1)
        left, right = world.algebra.cut(dim, position)
        assert dim_size(left) == position
        resolve = world.algebra.resolve
        assert denote(resolve(concatenate([left, right]))) == denote(resolve(dim))


def _unified(script: list[Step], first: int, second: int) -> World:
    world = run([*script, Step("fresh", 0, 0, 3)])
    Step("unify", first, second, 0).run(world)
    return world


class TestSplit:
    def test_a_leaf_is_refined(self) -> None:
        algebra = Algebra()
        dim = algebra.fresh(12)
        outer, inner = algebra.split(dim, 4)
        assert (text(outer), text(inner), text(algebra.resolve(dim))) == ("a3", "a4", "a3*b4")

    def test_a_sum_whose_parts_divide_shares_its_inner_factor(self) -> None:
        algebra = Algebra()
        dim = concatenate([algebra.fresh(6), algebra.fresh(4)])
        outer, inner = algebra.split(dim, 2)
        assert text(outer + inner) == "(a3+b2)*c2"

    def test_a_sum_of_equal_chunks_gets_a_fixed_lead(self) -> None:
        algebra = Algebra()
        dim = concatenate([algebra.fresh(2), algebra.fresh(3), algebra.fresh(5)])
        outer, inner = algebra.split(dim, 5)
        assert text(outer + inner) == "(1+1)*(a2+b3)"

    def test_chunks_are_cut_where_parts_straddle(self) -> None:
        algebra = Algebra()
        outer, inner = algebra.split(concatenate([algebra.fresh(7), algebra.fresh(3)]), 5)
        assert text(outer + inner) == "(1+1)*(a2+b3)"

    def test_a_group_norm_across_a_concatenation_freezes_with_its_reason(self) -> None:
        algebra = Algebra()
        algebra.where = Reason("groups straddle")
        skip, main = algebra.fresh(320), algebra.fresh(640)
        _, inner = algebra.split(concatenate([skip, main]), 30)
        frozen = [leaf for dim in (skip, main) for leaf in leaves(algebra.resolve(dim)) if leaf.frozen]
        assert {str(leaf.frozen) for leaf in frozen} == {"groups straddle"}
        assert text(inner) == "a3!*b10"

    def test_straddling_factors_alone_are_frozen(self) -> None:
        algebra = Algebra()
        outside, lead, inside = algebra.fresh(5), algebra.fresh(2), algebra.fresh(3)
        total = concatenate([lead + inside + algebra.fresh(2), algebra.fresh(20)])
        outer, _ = algebra.split(outside + total, 4)
        assert dim_size(outer) == 5 * 8
        assert not all_frozen(algebra.resolve(outside))

    def test_one_and_the_whole_are_trivial(self) -> None:
        algebra = Algebra()
        dim = algebra.fresh(6)
        assert algebra.split(dim, 1) == (dim, ())
        assert algebra.split(dim, 6) == ((), dim)

    @pytest.mark.parametrize("inner", [0, -2, 4, 7, 12])
    def test_what_does_not_divide_is_refused(self, inner: int) -> None:
        algebra = Algebra()
        with pytest.raises(ValueError, match=f"a dimension of 6 cannot be split by {inner}"):
            algebra.split(algebra.fresh(6), inner)

    def test_an_empty_dimension_splits_into_fixed_ones(self) -> None:
        algebra = Algebra()
        outer, inner = algebra.split(algebra.fresh(0), 4)
        assert (dim_size(outer), dim_size(inner)) == (0, 4)
        assert all_frozen(outer)
        assert all_frozen(inner)


class TestCut:
    def test_a_leaf_becomes_a_sum(self) -> None:
        algebra = Algebra()
        dim = algebra.fresh(5)
        algebra.cut(dim, 2)
        assert text(algebra.resolve(dim)) == "(a2+b3)"

    def test_a_product_is_cut_at_a_multiple_of_its_inner_size(self) -> None:
        algebra = Algebra()
        left, right = algebra.cut(algebra.fresh(4) + algebra.fresh(3), 9)
        assert text(concatenate([left, right])) == "(a3*b3+b3)"

    def test_inside_a_copy_the_lead_position_is_told_apart(self) -> None:
        algebra = Algebra()
        dim = algebra.fresh(4) + algebra.fresh(3)
        algebra.cut(dim, 4)
        assert text(algebra.resolve(dim)) == "(1+1+a2)*(1+b2)"

    @pytest.mark.parametrize("position", [0, -1, 5, 6])
    def test_outside_is_refused(self, position: int) -> None:
        algebra = Algebra()
        with pytest.raises(ValueError, match=f"a dimension of 5 cannot be cut at {position}"):
            algebra.cut(algebra.fresh(5), position)


class TestUnify:
    def test_a_leaf_takes_the_other_side(self) -> None:
        algebra = Algebra()
        leaf, product = algebra.fresh(12), algebra.fresh(3) + algebra.fresh(4)
        algebra.unify(leaf, product)
        assert same(algebra.resolve(leaf), algebra.resolve(product))

    def test_products_that_do_not_nest_share_the_greatest_common_divisor(self) -> None:
        algebra = Algebra()
        first, second = algebra.fresh(3) + algebra.fresh(4), algebra.fresh(2) + algebra.fresh(6)
        algebra.unify(first, second)
        assert text(algebra.resolve(first)) == "a3!*b2!*c2"
        assert algebra.resolve(first)[-1] is algebra.resolve(second)[-1]

    def test_sums_align_part_by_part(self) -> None:
        algebra = Algebra()
        first = concatenate([algebra.fresh(2), algebra.fresh(4)])
        second = concatenate([algebra.fresh(3), algebra.fresh(3)])
        algebra.unify(first, second)
        assert text(algebra.resolve(first)) == "(a2+1+b3)"

    def test_a_conflict_freezes_the_smallest_blocks_only(self) -> None:
        algebra = Algebra()
        outside, shared = algebra.fresh(5), algebra.fresh(7)
        first = outside + algebra.fresh(2) + algebra.fresh(3) + shared
        second = algebra.fresh(5) + algebra.fresh(3) + algebra.fresh(2) + algebra.fresh(7)
        algebra.unify(first, second)
        assert text(algebra.resolve(first)) == "a5*b2!*c3!*d7"

    def test_rotate_half_makes_the_halves_one(self) -> None:
        algebra = Algebra()
        dim = algebra.fresh(8)
        left, right = algebra.cut(dim, 4)
        algebra.unify(dim, concatenate([right, left]))
        assert text(algebra.resolve(dim)) == "(a4+a4)"

    def test_an_odd_rotation_keeps_the_common_period(self) -> None:
        algebra = Algebra()
        dim = algebra.fresh(10)
        left, right = algebra.cut(dim, 4)
        algebra.unify(concatenate([left, right]), concatenate([right, left]))
        assert text(algebra.resolve(dim)) == "(a2+a2+a2+a2+a2)"

    def test_unequal_sizes_are_refused(self) -> None:
        algebra = Algebra()
        with pytest.raises(ValueError, match="dimensions of 2 and 3 cannot be one"):
            algebra.unify(algebra.fresh(2), algebra.fresh(3))

    def test_frozen_is_contagious_and_the_first_reason_stays(self) -> None:
        algebra = Algebra()
        first, second, third = (algebra.fresh(6) for _ in range(3))
        algebra.freeze(second, FROZEN)
        algebra.unify(first, second)
        algebra.freeze(first, Reason("a later reason"))
        algebra.unify(third, first)
        _, inner = algebra.split(third, 3)
        assert {leaf.frozen for leaf in leaves(inner)} == {FROZEN}

    def test_marks_travel_through_links_and_refinement(self) -> None:
        algebra = Algebra()
        first, second = algebra.fresh(6), algebra.fresh(6)
        algebra.mark(first, "mark")
        algebra.unify(first, second)
        outer, inner = algebra.split(second, 2)
        assert [leaf.marks for leaf in leaves(outer + inner)] == [{"mark"}, {"mark"}]

    def test_what_was_refined_a_moment_ago_is_refined_no_second_time(self) -> None:
        world = World()
        for step in (Step("fresh", 0, 0, 7), Step("product", 0, 0, 0), Step("split", 1, 0, 2), Step("unify", 2, 1, 0)):
            step.run(world)
        assert world.broken() == ""


class TestSizes:
    """The algebra ends, soon, on self-coupling at any size."""

    @pytest.mark.parametrize("shift", [1, 2, 3, 64, 1000, 1023, 2048, 4095])
    def test_rotations(self, shift: int) -> None:
        algebra = Algebra()
        dim = algebra.fresh(4096)
        left, right = algebra.cut(dim, shift)
        started = time.process_time()
        algebra.unify(concatenate([left, right]), concatenate([right, left]))
        resolved = algebra.resolve(dim)
        assert time.process_time() - started < SECONDS
        assert dim_size(resolved) == 4096
        if shift in {64, 2048}:
            assert {leaf.size for leaf in leaves(resolved)} == {shift}
        else:
            assert all(leaf.frozen or leaf.size <= 2048 for leaf in leaves(resolved))

    @pytest.mark.parametrize(("size", "groups"), [(4096, 2), (4096, 64), (4095, 3), (4095, 5), (1000, 8), (3072, 3)])
    def test_repeated_shuffles(self, size: int, groups: int) -> None:
        algebra = Algebra()
        dim = value = algebra.fresh(size)
        started = time.process_time()
        for _ in range(12):
            outer, inner = algebra.split(value, size // groups)
            value = algebra.resolve(inner + outer)
            algebra.unify(dim, value)
        assert time.process_time() - started < SECONDS
        assert dim_size(algebra.resolve(value)) == size
        assert denote(algebra.resolve(value)) == denote(algebra.resolve(dim))

    @pytest.mark.parametrize(("depth", "left"), [(1, 32), (2, 16), (3, 8), (4, 4), (5, 2)])
    def test_repeated_shuffle_and_concatenation_keeps_its_axis(self, depth: int, left: int) -> None:
        algebra = Algebra()
        value = algebra.fresh(64)
        for _ in range(depth):
            passed, _ = algebra.cut(value, 32)
            outer, inner = algebra.split(concatenate([passed, algebra.fresh(32)]), 32)
            value = algebra.resolve(inner + outer)
        assert [leaf.size for leaf in leaves(value) if not leaf.frozen] == [left]

    def test_a_long_chain_of_ties(self) -> None:
        algebra = Algebra()
        first = value = algebra.fresh(64)
        for _ in range(3 * sys.getrecursionlimit()):
            other = algebra.fresh(64)
            algebra.unify(value, other)
            value = algebra.resolve(other)
        assert same(algebra.resolve(first), algebra.resolve(value))

    def test_a_long_row_of_cuts(self) -> None:
        algebra = Algebra()
        count = sys.getrecursionlimit()
        dim = rest = algebra.fresh(2 * count)
        for _ in range(count - 1):
            _, rest = algebra.cut(rest, 2)
        assert len(list(leaves(algebra.resolve(dim)))) == count

    def test_a_sum_of_many_parts_splits_in_linear_time(self) -> None:
        algebra = Algebra()
        dim = concatenate([algebra.fresh(2) for _ in range(4096)])
        started = time.process_time()
        _, inner = algebra.split(dim, 8)
        assert time.process_time() - started < SECONDS
        assert text(inner) == "(a2+b2+c2+d2)"

    def test_an_alignment_that_takes_too_long_freezes_the_rest(self) -> None:
        algebra = Algebra()
        dim = algebra.fresh(4 * MAX_ALIGNMENT_STEPS)
        left, right = algebra.cut(dim, 1)
        algebra.unify(concatenate([left, right]), concatenate([right, left]))
        assert all_frozen(algebra.resolve(dim))


def test_every_step_of_the_random_programs_exists() -> None:
    assert all(hasattr(Step, f"_{name}") for name in NAMES)
