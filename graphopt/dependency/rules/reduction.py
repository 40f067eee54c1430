"""Reductions: sums contract an axis, means and moments run a statistic over it."""

from __future__ import annotations

import torch

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.ties import Dims, Output, Ties

aten = torch.ops.aten


def reduced(t: Ties, *, statistic: bool) -> Dims:
    """What is left after a reduction over ``dim``; without one, over everything."""
    name = "self" if "self" in t.names() else "input"
    dims = t.dims(name)
    axes = t.axes("dim", len(dims)) if "dim" in t.names() else list(range(len(dims)))
    for axis in axes:
        t.contract(name, axis)
    if statistic:
        t.statistic([dims[axis] for axis in axes])
    keepdim = bool(t["keepdim"]) if "keepdim" in t.names() else False
    return t.reduce(dims, axes, keepdim=keepdim)


def total(t: Ties) -> Dims:
    """A sum: exact wherever what goes is zero."""
    return reduced(t, statistic=False)


def norm(t: Ties) -> Dims:
    """A norm: as a sum of powers, and of a negative order no sum at all."""
    order = t["ord"] if "ord" in t.names() else t["p"] if "p" in t.names() else 2
    if isinstance(order, int | float) and order < 0:
        dims = t.dims("self")
        for axis in t.axes("dim", len(dims)) if "dim" in t.names() else range(len(dims)):
            t.freeze(dims[axis], "a norm of negative order runs over it")
    return total(t)


def moment(t: Ties) -> Dims:
    """A mean or another statistic: its value depends on how many there are."""
    return reduced(t, statistic=True)


coupling_rule("aten.sum.dim_IntList", sample=Sample(lambda x: x.sum(1), ((4, 6),)), zeros="keeps")(total)
coupling_rule("aten.sum.default", "aten.nansum.default", zeros="keeps")(total)
coupling_rule(
    "aten.linalg_vector_norm.default",
    sample=Sample(lambda x: torch.linalg.vector_norm(x, dim=1), ((4, 6),)),
    zeros="keeps",
)(norm)
coupling_rule("aten.norm.ScalarOpt_dim", "aten.norm.Scalar", "aten.frobenius_norm.dim", zeros="keeps")(norm)
coupling_rule("aten.any.dim", "aten.any.default", "aten.count_nonzero.default", zeros="keeps")(total)
coupling_rule("aten.mean.dim", sample=Sample(lambda x: x.mean(1), ((4, 6),)), zeros="keeps")(moment)
coupling_rule("aten.mean.default", zeros="keeps")(moment)
coupling_rule("aten.var.correction", sample=Sample(lambda x: x.var(1), ((4, 6),)), zeros="keeps")(moment)
coupling_rule("aten.std.correction", sample=Sample(lambda x: x.std(1), ((4, 6),)), zeros="keeps")(moment)
coupling_rule("aten.var.dim", "aten.std.dim", "aten.var.default", "aten.std.default", zeros="keeps")(moment)
coupling_rule("aten.amax.default", sample=Sample(lambda x: x.amax(1), ((4, 6),)), zeros="keeps")(moment)
coupling_rule("aten.amin.default", sample=Sample(lambda x: x.amin(1), ((4, 6),)), zeros="keeps")(moment)
coupling_rule("aten.max.default", "aten.min.default", zeros="keeps")(moment)


@coupling_rule("aten.var_mean.correction", zeros="keeps")
def var_mean(t: Ties) -> Output:
    """Variance and mean at once."""
    out = moment(t)
    return [out, list(out)]


def ordered(t: Ties, *, reason: str) -> Dims:
    """Freeze ``dim``: which index wins, or how it competes, has a meaning."""
    dims = t.dims("self")
    for axis in t.axes("dim", len(dims)):
        t.freeze(dims[axis], reason)
    return dims


@coupling_rule("aten.max.dim", "aten.min.dim", "aten.median.dim")
def extreme(t: Ties) -> Output:
    """Values and positions of the extremes."""
    out = t.reduce(
        ordered(t, reason="positions of extremes are taken along it"),
        t.axes("dim", len(t.dims("self"))),
        keepdim=t["keepdim"],
    )
    return [out, list(out)]


@coupling_rule(
    "aten.argmax.default", "aten.argmin.default", "aten.prod.dim_int", "aten.logsumexp.default", "aten.all.dim"
)
def winner(t: Ties) -> Dims:
    """One index or value chosen by competition."""
    dims = ordered(t, reason="indices compete along it")
    keepdim = bool(t["keepdim"]) if "keepdim" in t.names() else False
    return t.reduce(dims, t.axes("dim", len(dims)), keepdim=keepdim)


coupling_rule("aten.all.default", "aten.prod.default", "aten._is_all_true.default")(
    lambda t: ordered(t, reason="indices compete along it")[:0]
)
coupling_rule("aten.softmax.int", sample=Sample(lambda x: torch.softmax(x, 1), ((4, 6),)))(
    lambda t: ordered(t, reason="a softmax runs over it")
)
coupling_rule(
    "aten._softmax.default", "aten.log_softmax.int", "aten._log_softmax.default", "aten._safe_softmax.default"
)(lambda t: ordered(t, reason="a softmax runs over it"))
