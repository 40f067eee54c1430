"""Transposed convolutions and nearest neighbours along the split axis: an index becomes several."""

from __future__ import annotations

import torch
from torch import fx

from graphopt.rewrite.sharding.layout import Edits, Layout, NotSplitError, Recipe
from graphopt.rewrite.sharding.question import Question
from graphopt.rewrite.sharding.ranges import Ranges, joined
from graphopt.rewrite.sharding.windows import entry_of
from graphopt.rewrite.sharding.workshop import Workshop

aten = torch.ops.aten


def transposed(question: Question) -> Recipe:
    """Input ``i`` adds to outputs ``i * stride - padding + j * dilation``; a part computes more and keeps its own."""
    kernel = question.shape("weight")[2:]
    first = len(question.shape("input")) - len(kernel)
    layout = question.layout("input")
    if layout is None or layout.dim < first:
        return question.by_rule()
    place = layout.dim - first
    stride, border, dilation = (entry_of(question, name, place) for name in ("stride", "padding", "dilation"))
    extent = (kernel[place] - 1) * dilation + 1
    rows = question.out_shape[layout.dim]
    if layout.outer != 1 or any(len(ranges) != 1 for ranges in layout.parts):
        raise NotSplitError("windows run over rows that do not follow each other")
    if rows > (layout.size - 1) * stride + extent - border:
        raise NotSplitError("outputs that no input reaches")
    ends = [min(rows, ranges[0][1] * stride) for ranges in layout.parts]
    ends[-1] = rows
    parts = tuple(joined([pair]) for pair in zip([0, *ends[:-1]], ends, strict=True))
    if not all(parts):
        raise NotSplitError("a part would have nothing of it")
    read = tuple(_reached(ranges, layout.size, stride, border, extent) for ranges in parts)
    edits = _without_borders(question, place, len(kernel))

    def emit(shop: Workshop) -> list[fx.Node]:
        out = []
        for part in range(question.parts):
            (start, stop), first_row = parts[part][0], read[part][0][0] * stride - border
            copy = shop.copy(part, edits)
            out.append(shop.call(aten.slice.Tensor, (copy, layout.dim, start - first_row, stop - first_row), part))
        return out

    needs = {question.arguments["input"]: Layout(layout.dim, layout.size, read)}
    return Recipe(Layout(layout.dim, rows, parts), needs, emit=emit)


def _reached(rows: Ranges, size: int, stride: int, border: int, extent: int) -> Ranges:
    """Inputs that add to some of the outputs, and as far as they take to reach around these.

    Where windows are shorter than their distance, an output between two of them has the bias alone, and still lies
    between the first and the last row that a part computes.
    """
    start, stop = rows[0]
    first = min(-(-(start + border - extent + 1) // stride), (start + border) // stride)
    last = max((stop - 1 + border) // stride, -(-(stop + border - extent) // stride))
    return joined([(max(0, first), min(size, last + 1))])


def _without_borders(question: Question, place: int, rank: int) -> Edits:
    """Keep along the axis what padding would take off, and add nothing after it."""
    found = {name: [entry_of(question, name, other) for other in range(rank)] for name in ("padding", "output_padding")}
    for numbers in found.values():
        numbers[place] = 0
    return {(name, None): numbers for name, numbers in found.items()}


def nearest(question: Question) -> Recipe:
    """Nearest neighbours at a whole factor: every index is repeated."""
    name = "input" if "input" in question.arguments else "self"
    layout = question.layout(name)
    lead = len(question.shape(name)) - _spatial_rank(question)
    if layout is None or layout.dim < lead:
        return question.by_rule()
    rows = question.out_shape[layout.dim]
    if layout.outer != 1 or rows % layout.size:
        raise NotSplitError("it is resampled by no whole factor")
    factor = rows // layout.size
    parts = tuple(tuple((start * factor, stop * factor) for start, stop in ranges) for ranges in layout.parts)
    edits = tuple(_sizes(question, layout.dim - lead, layout.count(part) * factor) for part in range(question.parts))
    return Recipe(Layout(layout.dim, rows, parts), {question.arguments[name]: layout}, edits)


def _spatial_rank(question: Question) -> int:
    return len(question.out_shape) - 2


def _sizes(question: Question, place: int, size: int) -> Edits:
    """The size along the axis, where the sizes are told."""
    return {} if question.arguments.get("output_size") is None else {("output_size", place): size}
