"""Concatenation along the split axis, and results that need only a few indices of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import fx

from graphopt.dependency.ties import concrete, shape_of
from graphopt.rewrite.sharding.layout import Edits, Layout, NotSplitError, Recipe
from graphopt.rewrite.sharding.question import Question, is_tensor
from graphopt.rewrite.sharding.ranges import count, even_parts, is_partition, joined, moved, within
from graphopt.rewrite.sharding.workshop import Workshop
from graphopt.values import value_of

aten = torch.ops.aten


def concatenation(question: Question) -> Recipe:
    """One after the other: a part holds its share of every operand, so a class token lies with the first part."""
    operands = [item for item in question.arguments["tensors"] if is_tensor(item)]
    dim = int(question.arguments["dim"]) % len(question.out_shape)
    if not any(layout.dim == dim for layout in question.layouts.values()):
        return question.by_rule()
    if any(layout.dim != dim or layout.outer != 1 for layout in question.layouts.values()):
        raise NotSplitError("operands are spread along different dimensions")
    sizes = [shape_of(value_of(item))[dim] for item in operands]
    held = [_share(question, item, dim, size) for item, size in zip(operands, sizes, strict=True)]
    starts = [0, *accumulate(sizes)]
    parts = tuple(
        joined(pair for layout, start in zip(held, starts, strict=False) for pair in moved(layout.parts[part], start))
        for part in range(question.parts)
    )
    if not is_partition(parts, starts[-1]):
        raise NotSplitError("a part would have nothing of it")
    needs = dict(zip(operands, held, strict=True))

    def emit(shop: Workshop) -> list[fx.Node]:
        return [_join(shop, operands, needs, dim, part) for part in range(question.parts)]

    return Recipe(Layout(dim, starts[-1], parts), needs, emit=emit)


def _share(question: Question, operand: fx.Node, dim: int, size: int) -> Layout:
    """How an operand of a concatenation is spread: as it is, or evenly; too short a one lies with the first part."""
    known = question.layouts.get(operand)
    if known is not None:
        return known
    if size >= question.parts:
        return Layout(dim, size, even_parts(size, question.parts))
    first = joined([(0, size)])
    return Layout(dim, size, (first, *((),) * (question.parts - 1)))


def _join(shop: Workshop, operands: Sequence[fx.Node], needs: Mapping[fx.Node, Layout], dim: int, part: int) -> fx.Node:
    values = [shop.operand(item, part) for item in operands if needs[item].parts[part]]
    return values[0] if len(values) == 1 else shop.call(aten.cat.default, (values, dim), part)


def selection(question: Question) -> Recipe:
    """One index of a dimension: of the split one, only that index is read, by every part."""
    layout = question.layout("self")
    dim = int(question.arguments["dim"]) % len(question.shape("self"))
    if layout is None or layout.dim != dim or layout.outer != 1:
        return question.by_rule()
    index = concrete(question.arguments["index"]) % layout.size
    return _narrow(question, layout, (index, index + 1), {("index", None): 0})


def cut(question: Question) -> Recipe:
    """Consecutive indices: a part keeps those of its own; where one would keep none, all read what is cut out."""
    layout = question.layout("self")
    dim = int(question.arguments["dim"]) % len(question.shape("self"))
    if layout is None or layout.dim != dim:
        return question.by_rule()
    if question.arguments["step"] != 1 or layout.outer != 1:
        raise NotSplitError("a slice with steps, or of several stretches at once")
    start, size = concrete(question.arguments["start"] or 0), question.out_shape[dim]
    begin = min(layout.size, start + (layout.size if start < 0 else 0))
    wanted = (begin, begin + size)
    kept = tuple(within(ranges, wanted) for ranges in layout.parts)
    if not all(kept):
        return _narrow(question, layout, wanted, {("start", None): 0, ("end", None): size})
    edits: list[Edits] = []
    for ranges, own in zip(layout.parts, kept, strict=True):
        first = count(within(ranges, (0, begin)))
        edits.append({("start", None): first, ("end", None): first + count(own)})
    parts = tuple(moved(own, -begin) for own in kept)
    return Recipe(Layout(dim, size, parts), {question.arguments["self"]: layout}, tuple(edits))


def _narrow(question: Question, layout: Layout, wanted: tuple[int, int], edits: Edits) -> Recipe:
    parts = (joined([wanted]),) * question.parts
    need = Layout(layout.dim, layout.size, parts)
    return Recipe(None, {question.arguments["self"]: need}, (edits,) * question.parts)
