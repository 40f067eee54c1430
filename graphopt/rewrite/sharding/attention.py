"""Attention whose queries are spread: every part computes its own rows and reads the keys and values of all."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from graphopt.rewrite.sharding.layout import Layout, NotSplitError, Recipe
from graphopt.rewrite.sharding.question import DualScope, Question
from graphopt.rewrite.sharding.ranges import Ranges, count, joined
from graphopt.rewrite.sharding.workshop import Workshop
from graphopt.values import value_of

aten = torch.ops.aten


def attention(question: Question) -> Recipe:
    """``query: (..., L, E)``, ``key: (..., S, E)``: rows of queries are independent of each other."""
    query = question.layout("query")
    rows = len(question.shape("query")) - 2
    if question.arguments["is_causal"] and query is not None and query.dim == rows:
        return _causal(question, query)
    recipe = question.by_rule()
    if question.scope is None or query is None or query.dim != rows:
        return recipe
    return _scoped(question, query, question.scope, recipe)


def _causal(question: Question, query: Layout) -> Recipe:
    """A part of the queries sees the keys before its end; the mask is written out, since it counts from its start."""
    if query.outer != 1 or any(len(ranges) != 1 for ranges in query.parts):
        raise NotSplitError("a causal mask over rows that do not follow each other")
    keys, values = question.arguments["key"], question.arguments["value"]
    size, rank = question.shape("key")[-2], len(question.shape("key"))
    seen = tuple(((0, min(size, ranges[0][1])),) for ranges in query.parts)
    needs = {question.arguments["query"]: query}
    for operand in (keys, values):
        held = question.layouts.get(operand)
        if held is not None and (held.dim != rank - 2 or held.outer != 1):
            raise NotSplitError("keys are spread along another dimension than queries")
        needs[operand] = Layout(rank - 2, size, seen)

    def emit(shop: Workshop) -> list[fx.Node]:
        return [_rows_of_mask(shop, part, query.parts[part][0], seen[part][0][1]) for part in range(question.parts)]

    return Recipe(query, needs, emit=emit)


def _rows_of_mask(shop: Workshop, part: int, rows: tuple[int, int], columns: int) -> fx.Node:
    start, stop = rows
    device = value_of(shop.node.args[0]).device
    ones = shop.call(aten.ones.default, ([stop - start, columns],), part, dtype=torch.bool, device=device)
    mask = shop.call(aten.tril.default, (ones, start), part)
    return shop.copy(part, {("attn_mask", None): mask, ("is_causal", None): False})


def _scoped(question: Question, query: Layout, scope: DualScope, recipe: Recipe) -> Recipe:
    """Let every part see its own keys, some of its neighbours and some of all."""
    held = [question.layout(name) for name in ("key", "value")]
    if any(layout is None or not layout.alike(query) for layout in held):
        return recipe  # attention to something else, such as a text
    if question.arguments["attn_mask"] is not None or query.outer != 1:
        raise NotSplitError("a mask says what attention along the axis sees, so its scope is left as it is")
    seen = tuple(seen_keys(ranges, query.size, scope) for ranges in query.parts)
    needs = {question.arguments[name]: replace(query, parts=seen) for name in ("key", "value")}
    return Recipe(query, {**recipe.needs, **needs}, recipe.edits)


def seen_keys(own: Ranges, size: int, scope: DualScope) -> Ranges:
    """Return which keys a part sees.

    Args:
        own: indices of the part.
        size: number of indices of the axis.
        scope: neighbours and strided indices.
    """
    beside = [(max(0, start - scope.local), min(size, stop + scope.local)) for start, stop in own]
    number = min(scope.total, size)
    strided = [index * size // number for index in range(number)]
    found = joined([*beside, *((index, index + 1) for index in strided)])
    return found if count(found) else own
