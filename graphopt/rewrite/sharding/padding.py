"""Padding along the split axis: what is added lies with the first and the last part."""

from __future__ import annotations

from graphopt.dependency.ties import concrete
from graphopt.rewrite.sharding.layout import Edits, Layout, NotSplitError, Recipe
from graphopt.rewrite.sharding.question import Question
from graphopt.rewrite.sharding.ranges import joined


def padding(question: Question) -> Recipe:
    """A constant before and after; amounts come in pairs, the last dimension first."""
    layout = question.layout("self")
    pairs = [concrete(amount) for amount in question.arguments["pad"]]
    place = 0 if layout is None else 2 * (len(question.shape("self")) - 1 - layout.dim)
    if layout is None or place >= len(pairs) or pairs[place : place + 2] == [0, 0]:
        return question.by_rule()
    before, after = pairs[place : place + 2]
    if question.arguments.get("mode", "constant") != "constant" or min(before, after) < 0 or layout.outer != 1:
        raise NotSplitError("it is padded by what lies at the border")
    size = layout.size + before + after
    last = question.parts - 1
    parts = tuple(joined(_grown(pair, layout.size, before, after) for pair in ranges) for ranges in layout.parts)
    edits: tuple[Edits, ...] = tuple(
        {("pad", place): before if part == 0 else 0, ("pad", place + 1): after if part == last else 0}
        for part in range(question.parts)
    )
    if layout.parts[0][0][0] != 0 or layout.parts[last][-1][1] != layout.size:
        raise NotSplitError("the borders lie with other parts than the first and the last")
    return Recipe(Layout(layout.dim, size, parts), {question.arguments["self"]: layout}, edits)


def _grown(pair: tuple[int, int], size: int, before: int, after: int) -> tuple[int, int]:
    start, stop = pair
    return (start + before if start else 0), stop + before + (after if stop == size else 0)
