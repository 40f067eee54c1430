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
    the whole to rounding. Displaced, the moments of other parts are a step old, and all of them are corrected by how
    far those of the own part have moved; where that makes a variance negative, the own one stands in.

    References:
        Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
        Li et al., DistriFusion: Distributed Parallel Inference for High-Resolution Diffusion Models, CVPR 2024, arXiv
        2402.19481, for the correction. There the variance is unbiased, which differs from the model's own.
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
    moments = [_raw_moments(shop, norm, value, part) for part, value in enumerate(values)]
    out = []
    for part, value in enumerate(values):
        late = [shop.delayed(moment, owner, part) for owner, moment in enumerate(moments)]
        drift = shop.call(aten.sub.Tensor, (moments[part], late[part]), part)
        whole = shop.call(aten.add.Tensor, (_weighted(shop, norm, late, part), drift), part)
        mean, variance = _central(shop, whole, part)
        own = _central(shop, moments[part], part)[1]
        negative = shop.call(aten.lt.Scalar, (variance, 0), part)
        out.append(
            _normalised(shop, norm, value, mean, shop.call(aten.where.self, (negative, own, variance), part), part)
        )
    return out


def _raw_moments(shop: Workshop, norm: _Norm, value: fx.Node, part: int) -> fx.Node:
    """Means of the values and of their squares, ``(2, N, G, 1, ...)``."""
    square = shop.call(aten.mul.Tensor, (value, value), part)
    pair = [shop.call(aten.mean.dim, (item, norm.dims, True), part) for item in (value, square)]
    return shop.call(aten.stack.default, (pair,), part)


def _central(shop: Workshop, moment: fx.Node, part: int) -> tuple[fx.Node, fx.Node]:
    mean, square = _pair(shop, moment, part)
    return mean, shop.call(aten.sub.Tensor, (square, shop.call(aten.mul.Tensor, (mean, mean), part)), part)


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
