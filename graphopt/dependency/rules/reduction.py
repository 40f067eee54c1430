"""Reductions: sums contract an axis, means and moments run a statistic over it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.rules.ordering import with_places
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
coupling_rule("aten.sum.default", sample=Sample(lambda x: x * x.sum()), zeros="keeps")(total)
coupling_rule("aten.nansum.default", sample=Sample(lambda x: x.nansum(1), ((4, 6),)), zeros="keeps")(total)
coupling_rule(
    "aten.linalg_vector_norm.default",
    sample=Sample(lambda x: torch.linalg.vector_norm(x, dim=1), ((4, 6),)),
    zeros="keeps",
)(norm)
coupling_rule(
    "aten.norm.ScalarOpt_dim", sample=Sample(lambda x: aten.norm.ScalarOpt_dim(x, 3, [1]), ((4, 6),)), zeros="keeps"
)(norm)
coupling_rule("aten.norm.Scalar", sample=Sample(lambda x: x * aten.norm.Scalar(x, 3)), zeros="keeps")(norm)
coupling_rule(
    "aten.frobenius_norm.dim", sample=Sample(lambda x: aten.frobenius_norm.dim(x, [1]), ((4, 6),)), zeros="keeps"
)(norm)
coupling_rule("aten.any.dim", sample=Sample(lambda x: (x > 3).any(1).float(), ((4, 6),)), zeros="keeps")(total)
coupling_rule("aten.any.default", sample=Sample(lambda x: x + (x.abs() > 7).any().float()), zeros="keeps")(total)
coupling_rule(
    "aten.count_nonzero.default", sample=Sample(lambda x: (x > 1).count_nonzero(1).float(), ((4, 6),)), zeros="keeps"
)(total)
coupling_rule("aten.mean.dim", sample=Sample(lambda x: x.mean(1), ((4, 6),)), zeros="keeps")(moment)
coupling_rule("aten.mean.default", sample=Sample(lambda x: x * x.mean()), zeros="keeps")(moment)
for _packet in (aten.var, aten.std):
    coupling_rule(
        str(_packet.correction),
        sample=Sample(lambda x, op=_packet.correction: op(x, [1], correction=0), ((4, 6),)),
        zeros="keeps",
    )(moment)
    coupling_rule(str(_packet.dim), sample=Sample(lambda x, op=_packet.dim: op(x, [1]), ((4, 6),)), zeros="keeps")(
        moment
    )
    coupling_rule(str(_packet.default), sample=Sample(lambda x, op=_packet.default: x * op(x)), zeros="keeps")(moment)
coupling_rule("aten.amax.default", sample=Sample(lambda x: x.amax(1), ((4, 6),)), zeros="keeps")(moment)
coupling_rule("aten.amin.default", sample=Sample(lambda x: x.amin(1), ((4, 6),)), zeros="keeps")(moment)
coupling_rule("aten.max.default", sample=Sample(lambda x: x * x.max()), zeros="keeps")(moment)
coupling_rule("aten.min.default", sample=Sample(lambda x: x * x.min()), zeros="keeps")(moment)


@coupling_rule(
    "aten.var_mean.correction",
    sample=Sample(lambda x: aten.var_mean.correction(x, [1], correction=0), ((4, 6),)),
    zeros="keeps",
)
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


def extreme(t: Ties) -> Output:
    """Values and positions of the extremes."""
    out = t.reduce(
        ordered(t, reason="positions of extremes are taken along it"),
        t.axes("dim", len(t.dims("self"))),
        keepdim=t["keepdim"],
    )
    return [out, list(out)]


for _op in (aten.max.dim, aten.min.dim, aten.median.dim):
    coupling_rule(str(_op), sample=Sample(lambda x, op=_op: with_places(op(x, 1)), ((4, 6),)))(extreme)


def winner(t: Ties) -> Dims:
    """One index or value chosen by competition."""
    dims = ordered(t, reason="indices compete along it")
    keepdim = bool(t["keepdim"]) if "keepdim" in t.names() else False
    return t.reduce(dims, t.axes("dim", len(dims)), keepdim=keepdim)


WINNERS: dict[str, Callable[[Tensor], Tensor]] = {
    "argmax.default": lambda x: x.argmax(1).float(),
    "argmin.default": lambda x: x.argmin(1).float(),
    "prod.dim_int": lambda x: x.prod(1),
    "logsumexp.default": lambda x: x.logsumexp(1),
    "all.dim": lambda x: (x > -1).all(1).float(),
}
for _name, _call in WINNERS.items():
    coupling_rule(f"aten.{_name}", sample=Sample(_call, ((4, 6),)))(winner)


def softmax(t: Ties) -> Dims:
    """Every element depends on all of ``dim``."""
    return ordered(t, reason="a softmax runs over it")


SOFTMAXES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax.int": lambda x: torch.softmax(x, 1),
    "_softmax.default": lambda x: aten._softmax.default(x, 1, False),
    "_safe_softmax.default": lambda x: aten._safe_softmax.default(x, 1),
    "log_softmax.int": lambda x: torch.log_softmax(x, 1),
    "_log_softmax.default": lambda x: aten._log_softmax.default(x, 1, False),
}
for _name, _call in SOFTMAXES.items():
    coupling_rule(f"aten.{_name}", sample=Sample(_call, ((4, 6),)))(softmax)
