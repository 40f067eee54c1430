"""What a term denotes, and random programs of the dimension algebra."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from graphopt.dependency.axes import Algebra
from graphopt.dependency.placement import BoolArray
from graphopt.dependency.terms import Dim, Leaf, Reason, Sum, concatenate, dim_size, leaves

Labels = list[frozenset[tuple[int, int]]]
FROZEN = Reason("frozen by the test")
LARGEST = 72


def denote(dim: Dim, *, free: bool = True) -> Labels:
    """For each flat index the atoms (leaf, index) that it falls with; frozen leaves never fall."""
    out: Labels = [frozenset()]
    for factor in dim:
        if isinstance(factor, Leaf):
            here = [
                frozenset() if free and factor.frozen else frozenset({(id(factor), index)})
                for index in range(factor.size)
            ]
        else:
            here = [labels for part in factor.parts for labels in denote(part, free=free)]
        out = [outer | inner for outer in out for inner in here]
    return out


def brute_mask(dim: Dim, kept: Mapping[Leaf, BoolArray]) -> list[bool]:
    """Which flat indices stay, read off the denotation."""
    gone = {(id(leaf), int(index)) for leaf, mask in kept.items() for index in np.flatnonzero(~mask)}
    return [not labels & gone for labels in denote(dim, free=False)]


def sum_is_flat(dim: Dim) -> bool:
    """Whether no part of a sum is itself a lone sum, at any depth."""
    for factor in dim:
        if isinstance(factor, Sum):
            if len(factor.parts) < 2 or factor.size != sum(map(dim_size, factor.parts)):
                return False
            for part in factor.parts:
                if (len(part) == 1 and isinstance(part[0], Sum)) or not sum_is_flat(part):
                    return False
    return True


@dataclass(eq=False)
class World:
    """An algebra, the terms made in it, and what must hold between them for ever after."""

    algebra: Algebra = field(default_factory=Algebra)
    terms: list[Dim] = field(default_factory=list)
    equal: list[tuple[Dim, Dim]] = field(default_factory=list)
    frozen: list[Dim] = field(default_factory=list)
    marked: list[Dim] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, dim: Dim) -> Dim:
        if dim_size(dim) <= LARGEST:
            self.terms.append(dim)
            self.sizes.append(dim_size(dim))
        return dim

    def state(self, first: Dim, second: Dim) -> None:
        """Remember that two terms denote the same."""
        self.equal.append((first, second))

    def unify(self, first: Dim, second: Dim) -> None:
        self.algebra.unify(first, second)
        self.state(first, second)

    def broken(self) -> str:
        """The first thing that does not hold, or an empty string."""
        resolve = self.algebra.resolve
        for size, dim in zip(self.sizes, self.terms, strict=True):
            if dim_size(resolve(dim)) != size:
                return f"size {size} became {dim_size(resolve(dim))}"
            if not sum_is_flat(resolve(dim)):
                return f"{resolve(dim)} holds a sum that is not flat"
        for first, second in self.equal:
            if denote(resolve(first)) != denote(resolve(second)):
                return f"{resolve(first)} and {resolve(second)} do not denote the same"
        for dim in self.frozen:
            if any(denote(resolve(dim))):
                return f"{resolve(dim)} thawed"
        for dim in self.marked:
            if not all("mark" in leaf.marks for leaf in leaves(resolve(dim))):
                return f"{resolve(dim)} lost its mark"
        return ""


@dataclass(frozen=True)
class Step:
    """One step of a random program; numbers choose among what there is, modulo how much there is."""

    name: str
    first: int
    second: int
    number: int

    def run(self, world: World) -> None:
        if not world.terms:
            world.add(world.algebra.fresh(1 + self.number % 12))
            return
        first = world.terms[self.first % len(world.terms)]
        second = world.terms[self.second % len(world.terms)]
        getattr(self, f"_{self.name}")(world, first, second)

    def _fresh(self, world: World, first: Dim, second: Dim) -> None:
        world.add(world.algebra.fresh(1 + self.number % 12))

    def _product(self, world: World, first: Dim, second: Dim) -> None:
        world.add(first + second)

    def _concatenate(self, world: World, first: Dim, second: Dim) -> None:
        world.add(concatenate([first, second]))

    def _divisor(self, dim: Dim) -> int:
        size = dim_size(dim)
        divisors = [number for number in range(1, size + 1) if size % number == 0]
        return divisors[self.number % len(divisors)]

    def _split(self, world: World, first: Dim, second: Dim) -> None:
        outer, inner = world.algebra.split(first, self._divisor(first))
        world.state(first, outer + inner)
        world.add(outer)
        world.add(inner)

    def _cut(self, world: World, first: Dim, second: Dim) -> None:
        if dim_size(first) > 1:
            left, right = world.algebra.cut(first, 1 + self.number % (dim_size(first) - 1))
            world.state(first, concatenate([left, right]))
            world.add(left)
            world.add(right)

    def _rotate(self, world: World, first: Dim, second: Dim) -> None:
        """A dimension added to its own rotation, as rotate-half does."""
        if dim_size(first) > 1:
            left, right = world.algebra.cut(first, 1 + self.number % (dim_size(first) - 1))
            world.unify(first, concatenate([right, left]))

    def _shuffle(self, world: World, first: Dim, second: Dim) -> None:
        """A dimension added to its own channel shuffle."""
        outer, inner = world.algebra.split(first, self._divisor(first))
        world.unify(first, inner + outer)

    def _unify(self, world: World, first: Dim, second: Dim) -> None:
        """Unify with a term of the same size, or with one filled up to it."""
        have, want = dim_size(first), dim_size(second)
        if have > want:
            second = concatenate([second, world.algebra.fresh(have - want)])
        elif want > have:
            first = concatenate([first, world.algebra.fresh(want - have)])
        world.unify(first, second)

    def _freeze(self, world: World, first: Dim, second: Dim) -> None:
        world.algebra.freeze(first, FROZEN)
        world.frozen.append(first)

    def _mark(self, world: World, first: Dim, second: Dim) -> None:
        world.algebra.mark(first, "mark")
        world.marked.append(first)


NAMES = ("fresh", "product", "concatenate", "split", "cut", "rotate", "shuffle", "unify", "unify", "freeze", "mark")
CHOICE = st.integers(0, 40)
STEPS = st.builds(Step, st.sampled_from(NAMES), CHOICE, CHOICE, CHOICE)
SCRIPTS = st.lists(STEPS, min_size=3, max_size=24)


def run(script: list[Step]) -> World:
    """Run a random program of the algebra."""
    world = World()
    for step in script:
        step.run(world)
    return world


def units(world: World) -> set[frozenset[tuple[int, int]]]:
    """What can be removed: for each free atom the positions (term, index) that fall with it."""
    found: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for number, dim in enumerate(world.terms):
        for index, labels in enumerate(denote(world.algebra.resolve(dim))):
            for label in labels:
                found.setdefault(label, set()).add((number, index))
    return {frozenset(places) for places in found.values()}
