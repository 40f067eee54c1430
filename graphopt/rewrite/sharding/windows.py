"""Convolutions and pooling along the split axis: a part reads the rows of its neighbours that its windows reach."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from graphopt.rewrite.sharding.layout import Layout, NotSplitError, Recipe
from graphopt.rewrite.sharding.question import Question
from graphopt.rewrite.sharding.ranges import Ranges, joined
from graphopt.rewrite.sharding.workshop import Workshop

aten = torch.ops.aten


@dataclass(frozen=True)
class Window:
    """Windows along one axis: output ``o`` reads inputs ``o * stride - padding + j * dilation``, j below ``kernel``."""

    kernel: int
    stride: int
    padding: int
    dilation: int = 1

    def reach(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first input that outputs from ``start`` to ``stop - 1`` read, and the one after the last."""
        first = start * self.stride - self.padding
        last = (stop - 1) * self.stride - self.padding + (self.kernel - 1) * self.dilation
        return first, last + 1

    def outputs(self, size: int) -> int:
        """Return the number of windows over ``size`` inputs."""
        return (size + 2 * self.padding - (self.kernel - 1) * self.dilation - 1) // self.stride + 1


def convolution(question: Question) -> Recipe:
    """``input: (N, C, ...)``, ``weight: (O, C // groups, ...)``: exact, with padding at the true borders alone."""
    kernel = question.shape("weight")[2:]
    first = len(question.shape("input")) - len(kernel)
    layout = question.layout("input")
    if layout is None or layout.dim < first:
        return question.by_rule()
    place = layout.dim - first
    if isinstance(question.arguments["padding"], str) or question.arguments.get("transposed"):
        raise NotSplitError("windows whose padding is not told as numbers, or that are transposed")
    window = Window(kernel[place], *(entry_of(question, name, place) for name in ("stride", "padding", "dilation")))
    return _windowed(question, "input", layout, window, place, 0.0)


def pooling(question: Question) -> Recipe:
    """Maxima and means of windows over the last dimensions."""
    kernel = question.arguments["kernel_size"]
    rank = len(kernel)
    layout = question.layout("self")
    first = len(question.shape("self")) - rank
    if layout is None or layout.dim < first:
        return question.by_rule()
    place = layout.dim - first
    is_mean = "count_include_pad" in question.arguments
    strides = question.arguments["stride"] or kernel
    window = Window(
        entry(kernel, place),
        entry(strides, place),
        entry_of(question, "padding", place),
        1 if is_mean else entry_of(question, "dilation", place),
    )
    if is_mean and window.padding and not question.arguments["count_include_pad"]:
        raise NotSplitError("windows at the border count fewer inputs")
    return _windowed(question, "self", layout, window, place, 0.0 if is_mean else float("-inf"))


def entry_of(question: Question, name: str, place: int) -> int:
    """Return what an argument says of one of the dimensions that windows run over."""
    return entry(question.arguments[name], place)


def entry(value: Any, place: int) -> int:
    """Return an entry of a list with one number a dimension, or with one for all."""
    if not isinstance(value, list | tuple):
        return int(value)
    return int(value[place] if len(value) > 1 else value[0])


def _windowed(question: Question, name: str, layout: Layout, window: Window, place: int, border: float) -> Recipe:
    size = layout.size
    rows = question.out_shape[layout.dim]
    if layout.outer != 1 or any(len(ranges) != 1 for ranges in layout.parts):
        raise NotSplitError("windows run over rows that do not follow each other")
    if window.outputs(size) != rows:
        raise NotSplitError("the last windows reach over the border")
    parts = _parts_of_outputs(layout, rows)
    reaches = [window.reach(ranges[0][0], ranges[0][1]) for ranges in parts]
    operand = question.arguments[name]
    read = tuple(joined([(max(0, start), min(size, stop))]) for start, stop in reaches)
    pads = [(max(0, -start), max(0, stop - size)) for start, stop in reaches]
    rank = len(question.shape(name))
    first = layout.dim - place
    paddings = [entry_of(question, "padding", other) for other in range(rank - first)]
    paddings[place] = 0

    def emit(shop: Workshop) -> list[fx.Node]:
        out = []
        for part in range(question.parts):
            value = shop.operand(operand, part)
            if any(pads[part]):
                amounts = [0, 0] * (rank - 1 - layout.dim) + [*pads[part]]
                value = shop.call(aten.constant_pad_nd.default, (value, amounts, border), part)
            out.append(shop.copy(part, {("padding", None): paddings}, {operand: value}))
        return out

    return Recipe(Layout(layout.dim, rows, parts), {operand: Layout(layout.dim, size, read)}, emit=emit)


def _parts_of_outputs(layout: Layout, rows: int) -> tuple[Ranges, ...]:
    """Windows by part, in proportion to the inputs."""
    ends = [round(ranges[0][1] * rows / layout.size) for ranges in layout.parts]
    bounds = [0, *ends[:-1], rows]
    parts = tuple(joined([pair]) for pair in pairwise(bounds))
    if not all(parts):
        raise NotSplitError("a part would have no window")
    return parts
