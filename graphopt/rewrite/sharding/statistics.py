"""GroupNorm over a split axis: every part gives its moments, and all parts normalise by those of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from graphopt.rewrite.sharding.layout import NotSplitError, Recipe
from graphopt.rewrite.sharding.question import Question
from graphopt.rewrite.sharding.workshop import Workshop

aten = torch.ops.aten


@dataclass(frozen=True)
class _Norm:
    """A group norm over parts: its input, number of groups and dimensions that a group's statistics run over."""

    question: Question
    rank: int
    shares: tuple[float, ...]

    @property
    def dims(self) -> list[int]:
        return list(range(2, self.rank + 1))

    @property
    def groups(self) -> int:
        return int(self.question.arguments["num_groups"])


def group_norm(question: Question) -> Recipe:
    """``input: (N, C, ...)`` split along a position: statistics are combined over the parts.

    With values of this step alone, means and variances are combined by the parallel formula, and the result is that of
    the whole to rounding. Displaced, the moments of other parts are a step old, and those of the whole are corrected by
    how far the own part's mean has moved and by how often its variance has grown. They are never extrapolated.

    References:
        Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
        Li et al., DistriFusion: Distributed Parallel Inference for High-Resolution Diffusion Models, CVPR 2024, arXiv
        2402.19481, for the correction. There both raw moments are moved by as much as the own ones have, which can make
        a variance small or negative, and the variance is unbiased, unlike the model's own.
    """
    layout = question.layout("input")
    if layout is None or layout.dim < 2:
        return question.by_rule()
    if layout.outer != 1 or len(question.layouts) > 1:
        raise NotSplitError("a statistic runs over it")
    shares = tuple(layout.count(part) / layout.size for part in range(question.parts))
    norm = _Norm(question, len(question.shape("input")), shares)

    def emit(shop: Workshop) -> list[fx.Node]:
        return _displaced(shop, norm) if question.displaced else _exact(shop, norm)

    return Recipe(layout, {question.arguments["input"]: layout}, emit=emit)


def _grouped(shop: Workshop, norm: _Norm, part: int) -> fx.Node:
    """``(N, G, C // G, ...)``."""
    value = shop.operand(norm.question.arguments["input"], part)
    return shop.call(aten.unflatten.int, (value, 1, [norm.groups, -1]), part)


def _exact(shop: Workshop, norm: _Norm) -> list[fx.Node]:
    values = [_grouped(shop, norm, part) for part in range(norm.question.parts)]
    moments = [_mean_and_variance(shop, norm, value, part) for part, value in enumerate(values)]
    out = []
    for part, value in enumerate(values):
        found = [_pair(shop, shop.shared(moment, owner, part), part) for owner, moment in enumerate(moments)]
        mean = _weighted(shop, norm, [one for one, _ in found], part)
        spreads = [_second(shop, one, variance, mean, part) for one, variance in found]
        out.append(_normalised(shop, norm, value, mean, _weighted(shop, norm, spreads, part), part))
    return out


def _mean_and_variance(shop: Workshop, norm: _Norm, value: fx.Node, part: int) -> fx.Node:
    """``(2, N, G, 1, ...)``: one small message."""
    pair = [
        shop.call(aten.mean.dim, (value, norm.dims, True), part),
        shop.call(aten.var.correction, (value, norm.dims), part, correction=0, keepdim=True),
    ]
    return shop.call(aten.stack.default, (pair,), part)


def _pair(shop: Workshop, moment: fx.Node, part: int) -> tuple[fx.Node, fx.Node]:
    first, second = (shop.call(aten.select.int, (moment, 0, index), part) for index in (0, 1))
    return first, second


def _weighted(shop: Workshop, norm: _Norm, values: Sequence[fx.Node], part: int) -> fx.Node:
    """The mean of values of the parts, each by its share of the axis."""
    scaled = [shop.call(aten.mul.Tensor, pair, part) for pair in zip(values, norm.shares, strict=True)]
    total = scaled[0]
    for value in scaled[1:]:
        total = shop.call(aten.add.Tensor, (total, value), part)
    return total


def _second(shop: Workshop, mean: fx.Node, variance: fx.Node, whole: fx.Node, part: int) -> fx.Node:
    """The mean square distance of a part from the mean of the whole."""
    distance = shop.call(aten.sub.Tensor, (mean, whole), part)
    return shop.call(aten.add.Tensor, (variance, shop.call(aten.mul.Tensor, (distance, distance), part)), part)


def _displaced(shop: Workshop, norm: _Norm) -> list[fx.Node]:
    values = [_grouped(shop, norm, part) for part in range(norm.question.parts)]
    moments = [_mean_and_variance(shop, norm, value, part) for part, value in enumerate(values)]
    out = []
    for part, value in enumerate(values):
        late = [shop.delayed(moment, owner, part) for owner, moment in enumerate(moments)]
        pairs = [_pair(shop, moment, part) for moment in late]
        before = _weighted(shop, norm, [mean for mean, _ in pairs], part)
        spreads = [_second(shop, mean, variance, before, part) for mean, variance in pairs]
        mean, variance = _pair(shop, moments[part], part)
        moved = shop.call(aten.sub.Tensor, (mean, pairs[part][0]), part)
        grown = _ratio(shop, norm, variance, pairs[part][1], part)
        whole = shop.call(aten.mul.Tensor, (_weighted(shop, norm, spreads, part), grown), part)
        out.append(_normalised(shop, norm, value, shop.call(aten.add.Tensor, (before, moved), part), whole, part))
    return out


def _ratio(shop: Workshop, norm: _Norm, now: fx.Node, before: fx.Node, part: int) -> fx.Node:
    """How much a variance has grown, one where both are nothing beside the norm's own ``eps``."""
    eps = norm.question.arguments["eps"]
    over, under = (shop.call(aten.add.Scalar, (one, eps), part) for one in (now, before))
    return shop.call(aten.div.Tensor, (over, under), part)


def _normalised(shop: Workshop, norm: _Norm, value: fx.Node, mean: fx.Node, variance: fx.Node, part: int) -> fx.Node:
    """``(value - mean) / sqrt(variance + eps) * weight + bias``, back as ``(N, C, ...)``."""
    eps = norm.question.arguments["eps"]
    scale = shop.call(aten.rsqrt.default, (shop.call(aten.add.Scalar, (variance, eps), part),), part)
    centred = shop.call(aten.sub.Tensor, (value, mean), part)
    result = shop.call(aten.mul.Tensor, (centred, scale), part)
    result = shop.call(aten.flatten.using_ints, (result, 1, 2), part)
    for name, target in (("weight", aten.mul.Tensor), ("bias", aten.add.Tensor)):
        operand = norm.question.arguments[name]
        if operand is not None:
            column = shop.call(aten.unflatten.int, (shop.operand(operand, part), 0, [-1, *[1] * (norm.rank - 2)]), part)
            result = shop.call(target, (result, column), part)
    return result
