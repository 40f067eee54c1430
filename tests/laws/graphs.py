"""Strategies for random graphs: steps one after the other, drawn from every coupling rule that has a sample."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from laws.draft import FEATURES, ROWS, Draft, Picks
from laws.sampled import NAMES, apply_rule
from laws.structure import STEPS
from torch import Tensor, nn

MOST = 60
Draw = Callable[[st.SearchStrategy], object]


@dataclass(frozen=True)
class Graph:
    """A random module as code; its repr is that code, to be run as it stands."""

    source: str
    drawn: tuple[str, ...] = field(default=(), compare=False)

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        names: dict[str, type[nn.Module]] = {}
        exec(compile(self.source, "<random graph>", "exec"), names)
        return names["Model"]().eval()

    def example(self, batch: int) -> Tensor:
        return torch.randn(batch, ROWS, FEATURES)

    def __repr__(self) -> str:
        return f"\n\n{self.source}\nmodel, args = Model().eval(), (torch.randn(3, {ROWS}, {FEATURES}),)\n"


def assembled(steps: list[tuple[str, list[int]]], most: int = MOST, stem: int | None = None) -> Graph:
    """The graph of some steps; those that do not fit are left out.

    Args:
        steps: names of steps or rules, each with the numbers that settle its choices.
        most: number of operations at which it ends.
        stem: place in ``STEMS`` of the shape that it begins with; told by the first step's numbers by default.
    """
    draft = Draft()
    STEPS["stem"](draft, Picks([stem, 1] if stem is not None else steps[0][1]))
    for name, numbers in steps:
        if draft.operations >= most:
            break
        picks = Picks(numbers)
        STEPS[name](draft, picks) if name in STEPS else apply_rule(draft, name, picks)
    return Graph(draft.source(), tuple(draft.drawn))


WIRING = st.sampled_from(sorted(STEPS))
RULES = st.sampled_from([name for name in NAMES if not name.endswith(".data") and "_packed_sequence" not in name])
"""Not those of packed sequences, whose sizes the data decide."""
NUMBERS = st.lists(st.integers(0, 119), min_size=6, max_size=6)
ONE = st.tuples(st.one_of(WIRING, RULES), NUMBERS)


def graphs() -> st.SearchStrategy[Graph]:
    """Graphs of up to 60 operations; small ones more often."""
    sizes = ((1, 12), (6, 24), (20, MOST))
    return st.one_of([st.lists(ONE, min_size=low, max_size=high) for low, high in sizes]).map(assembled)
