"""Elementwise operators: what stands at the same place belongs together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphopt.dependency.registry import Sample, Zeros, coupling_rule
from graphopt.dependency.ties import Dims, Output, Ties

aten = torch.ops.aten


def unary(t: Ties) -> Dims:
    """One operand: the output has its dimensions."""
    return t.dims(t.tensors()[0])


def singular(t: Ties) -> Dims:
    """One operand, at zero of which the operator has no finite value."""
    t.spare("self")
    return unary(t)


UNARY_KEEPS_ZERO: dict[str, Callable[[Tensor], Tensor]] = {
    "abs.default": torch.abs,
    "asin.default": lambda x: torch.asin(torch.tanh(x)),
    "asinh.default": torch.asinh,
    "atan.default": torch.atan,
    "atanh.default": lambda x: torch.atanh(torch.tanh(x) / 2),
    "celu.default": lambda x: aten.celu.default(x, 1.3),
    "ceil.default": torch.ceil,
    "copysign.Scalar": lambda x: aten.copysign.Scalar(x, -1.5),
    "deg2rad.default": lambda x: torch.deg2rad(60 * x),
    "elu.default": lambda x: aten.elu.default(x, 1.3),
    "erf.default": torch.erf,
    "erfinv.default": lambda x: torch.erfinv(torch.tanh(x) / 2),
    "expm1.default": torch.expm1,
    "floor.default": torch.floor,
    "frac.default": torch.frac,
    "gelu.default": nn.functional.gelu,
    "hardshrink.default": lambda x: aten.hardshrink.default(x, 0.3),
    "hardswish.default": nn.functional.hardswish,
    "leaky_relu.default": nn.functional.leaky_relu,
    "log1p.default": lambda x: torch.log1p(x * x),
    "mish.default": nn.functional.mish,
    "neg.default": torch.neg,
    "rad2deg.default": lambda x: torch.rad2deg(x / 60),
    "relu.default": torch.relu,
    "relu6.default": nn.functional.relu6,
    "round.default": lambda x: torch.round(4 * x),
    "selu.default": torch.selu,
    "sgn.default": torch.sgn,
    "sign.default": torch.sign,
    "silu.default": nn.functional.silu,
    "sin.default": torch.sin,
    "sinh.default": torch.sinh,
    "softshrink.default": lambda x: aten.softshrink.default(x, 0.1),
    "sqrt.default": lambda x: torch.sqrt(x * x),
    "special_entr.default": lambda x: torch.special.entr(x.abs()),
    "special_i1.default": torch.special.i1,
    "square.default": torch.square,
    "tan.default": lambda x: torch.tan(torch.tanh(x)),
    "tanh.default": torch.tanh,
    "trunc.default": lambda x: torch.trunc(4 * x),
}
UNARY_MOVES_ZERO: dict[str, Callable[[Tensor], Tensor]] = {
    "acos.default": lambda x: torch.acos(torch.tanh(x)),
    "cos.default": torch.cos,
    "cosh.default": torch.cosh,
    "exp2.default": torch.exp2,
    "sinc.default": torch.sinc,
    "erfc.default": torch.erfc,
    "exp.default": torch.exp,
    "hardsigmoid.default": nn.functional.hardsigmoid,
    "i0.default": torch.i0,
    "log_sigmoid.default": nn.functional.logsigmoid,
    "sigmoid.default": torch.sigmoid,
    "softplus.default": nn.functional.softplus,
    "special_erfcx.default": torch.special.erfcx,
    "special_log_ndtr.default": torch.special.log_ndtr,
}
SINGULAR_AT_ZERO: dict[str, Callable[[Tensor], Tensor]] = {
    "acosh.default": lambda x: torch.acosh(1 + x.abs()),
    "digamma.default": lambda x: torch.digamma(x.abs()),
    "lgamma.default": lambda x: torch.lgamma(x.abs()),
    "log.default": lambda x: torch.log(x.abs()),
    "log10.default": lambda x: torch.log10(x.abs()),
    "log2.default": lambda x: torch.log2(x.abs()),
    "reciprocal.default": torch.reciprocal,
    "rsqrt.default": lambda x: torch.rsqrt(x.abs()),
}
for _name, _call in UNARY_KEEPS_ZERO.items():
    coupling_rule(f"aten.{_name}", sample=Sample(_call), zeros="keeps")(unary)
for _name, _call in UNARY_MOVES_ZERO.items():
    coupling_rule(f"aten.{_name}", sample=Sample(_call))(unary)
for _name, _call in SINGULAR_AT_ZERO.items():
    coupling_rule(f"aten.{_name}", sample=Sample(_call))(singular)


def threshold_zeros(t: Ties) -> Zeros:
    """What is not above the threshold becomes the value: zero stays where it is above, or becomes zero."""
    return "keeps" if t["threshold"] < 0 or t["value"] == 0 else "none"


coupling_rule(
    "aten.threshold.default", sample=Sample(lambda x: aten.threshold.default(x, -0.5, 2.0)), zeros=threshold_zeros
)(unary)


@coupling_rule("aten.logit.default", sample=Sample(lambda x: torch.logit(torch.sigmoid(x), eps=1e-3)))
@coupling_rule("aten.special_logit.default", sample=Sample(lambda x: torch.special.logit(torch.sigmoid(x), eps=1e-3)))
def logit(t: Ties) -> Dims:
    """Kept away from zero and one by ``eps``; without it neither of them has a finite value."""
    dims = unary(t)
    if t["eps"] is None:
        for dim in dims:
            t.freeze(dim, "the logit of zero is not finite")
    return dims


@coupling_rule("aten.log_sigmoid_forward.default", sample=Sample(aten.log_sigmoid_forward.default))
def log_sigmoid_forward(t: Ties) -> Output:
    """The value and what a backward pass reads, which has the same dimensions or, on a GPU, none that hold any."""
    dims, (value, buffer) = t.dims("self"), t.out_shape
    kept = dims if buffer == value else [t.frozen(size, "a buffer of the backward pass") for size in buffer]
    return [dims, list(kept)]


def _holes(x: Tensor) -> Tensor:
    """Infinities of both signs and numbers that are none, where ``x`` is large."""
    holed = torch.where(x > 1, float("inf"), torch.where(x < -1, float("-inf"), x))
    return torch.where(x.abs() > 2, float("nan"), holed)


PREDICATES: dict[str, Callable[[Tensor], Tensor]] = {
    "bitwise_not.default": lambda x: torch.bitwise_not(x.round().long()),
    "logical_not.default": lambda x: torch.logical_not(x.round()),
    "isnan.default": lambda x: torch.isnan(_holes(x)),
    "isinf.default": lambda x: torch.isinf(_holes(x)),
    "isfinite.default": lambda x: aten.isfinite.default(_holes(x)),
    "isposinf.default": lambda x: torch.isposinf(_holes(x)),
    "isneginf.default": lambda x: torch.isneginf(_holes(x)),
}
for _name, _call in PREDICATES.items():
    coupling_rule(f"aten.{_name}", sample=Sample(lambda x, call=_call: call(x).float()))(unary)
coupling_rule("aten.nan_to_num.default", sample=Sample(torch.nan_to_num), zeros="keeps")(unary)


def _spans_zero(low: object, high: object) -> bool:
    below = low is None or (isinstance(low, int | float) and low <= 0)
    above = high is None or (isinstance(high, int | float) and high >= 0)
    return below and above


def clamp_zeros(t: Ties) -> Zeros:
    """A clamp keeps zeros where its range holds zero."""
    low = t["min"] if t.has("min") else t["min_val"] if t.has("min_val") else None
    high = t["max"] if t.has("max") else t["max_val"] if t.has("max_val") else None
    return "keeps" if _spans_zero(low, high) else "none"


coupling_rule("aten.clamp.default", sample=Sample(lambda x: torch.clamp(x, -0.3, 0.4)), zeros=clamp_zeros)(unary)
coupling_rule("aten.clamp_min.default", sample=Sample(lambda x: torch.clamp_min(x, 0.1)), zeros=clamp_zeros)(unary)
coupling_rule("aten.clamp_max.default", sample=Sample(lambda x: torch.clamp_max(x, 0.4)), zeros=clamp_zeros)(unary)
coupling_rule("aten.hardtanh.default", sample=Sample(lambda x: aten.hardtanh.default(x, -0.5, 0.5)), zeros=clamp_zeros)(
    unary
)


def power_zeros(t: Ties) -> Zeros:
    """A positive power of zero is zero."""
    exponent = t["exponent"]
    return "keeps" if isinstance(exponent, int | float) and exponent > 0 else "none"


def power(t: Ties) -> Dims:
    """A power by a number; zero has none where the number is negative or not known."""
    return unary(t) if power_zeros(t) == "keeps" or t["exponent"] == 0 else singular(t)


coupling_rule("aten.pow.Tensor_Scalar", sample=Sample(lambda x: x**-2), zeros=power_zeros)(power)
coupling_rule("aten.pow.Scalar", sample=Sample(lambda x: 1.5**x))(unary)


def binary(t: Ties) -> Dims:
    """Two or more operands: their dimensions are tied, aligned from the right."""
    tensors = t.tensors()
    out = t.broadcast(*(t.dims(item) for item in tensors))
    for item in tensors:
        if t.is_weight(item):
            for dim in t.dims(item):
                t.produce(dim)
    return out


def addition(t: Ties) -> Dims:
    """A sum of activations makes a residual axis."""
    out = binary(t)
    if sum(t.depends_on_input(item) for item in t.tensors()) > 1:
        for dim in out:
            t.mark(dim, "residual")
    return out


TWO = ((6,), (6,))
coupling_rule("aten.add.Tensor", sample=Sample(torch.add, TWO), zeros="all")(addition)
coupling_rule("aten.sub.Tensor", sample=Sample(torch.sub, TWO), zeros="all")(addition)
coupling_rule("aten.rsub.Tensor", sample=Sample(torch.rsub, TWO), zeros="all")(addition)
coupling_rule("aten.add.Scalar", sample=Sample(lambda x: aten.add.Scalar(x, 1.5)))(unary)
coupling_rule("aten.sub.Scalar", sample=Sample(lambda x: aten.sub.Scalar(x, 1.5)))(unary)
coupling_rule("aten.rsub.Scalar", sample=Sample(lambda x: 1.5 - x))(unary)
coupling_rule("aten.mul.Tensor", sample=Sample(torch.mul, TWO), zeros="any")(binary)
coupling_rule("aten.mul.Scalar", sample=Sample(lambda x: aten.mul.Scalar(x, 1.5)), zeros="keeps")(unary)


def division(t: Ties) -> Dims:
    """A quotient: a removed denominator stays whole in the proof, since zero over zero shows nothing."""
    out = binary(t)
    if t.is_tensor(t["other"]):
        t.spare("other")
    return out


coupling_rule("aten.div.Tensor", sample=Sample(torch.div, TWO), zeros="keeps")(division)
coupling_rule("aten.div.Tensor_mode", sample=Sample(lambda x, y: torch.div(4 * x, y, rounding_mode="floor"), TWO))(
    division
)
coupling_rule("aten.floor_divide.default", sample=Sample(lambda x, y: torch.floor_divide(4 * x, y), TWO))(division)
coupling_rule("aten.fmod.Tensor", sample=Sample(torch.fmod, TWO))(division)
coupling_rule("aten.remainder.Tensor", sample=Sample(torch.remainder, TWO))(division)
coupling_rule("aten.div.Scalar", sample=Sample(lambda x: aten.div.Scalar(x, 1.5)), zeros="keeps")(unary)
coupling_rule("aten.remainder.Scalar", sample=Sample(lambda x: torch.remainder(x, 0.7)), zeros="keeps")(unary)
coupling_rule("aten.fmod.Scalar", sample=Sample(lambda x: torch.fmod(x, 0.7)), zeros="keeps")(unary)
coupling_rule("aten.maximum.default", sample=Sample(torch.maximum, TWO), zeros="all")(binary)
coupling_rule("aten.minimum.default", sample=Sample(torch.minimum, TWO), zeros="all")(binary)
coupling_rule("aten.fmax.default", sample=Sample(torch.fmax, TWO), zeros="all")(binary)
coupling_rule("aten.fmin.default", sample=Sample(torch.fmin, TWO), zeros="all")(binary)
coupling_rule("aten.hypot.default", sample=Sample(torch.hypot, TWO), zeros="all")(binary)
coupling_rule("aten.logaddexp.default", sample=Sample(torch.logaddexp, TWO))(binary)
coupling_rule("aten.logaddexp2.default", sample=Sample(torch.logaddexp2, TWO))(binary)
coupling_rule("aten.heaviside.default", sample=Sample(torch.heaviside, TWO))(binary)
coupling_rule("aten.copysign.Tensor", sample=Sample(torch.copysign, TWO), zeros="keeps")(binary)
coupling_rule("aten.ldexp.Tensor", sample=Sample(torch.ldexp, TWO), zeros="keeps")(binary)
coupling_rule("aten.max.other", sample=Sample(aten.max.other, TWO), zeros="all")(binary)
coupling_rule("aten.min.other", sample=Sample(aten.min.other, TWO), zeros="all")(binary)


def singular_base(t: Ties) -> Dims:
    """A power by a tensor, which zero need not have."""
    t.spare("self")
    return binary(t)


coupling_rule("aten.pow.Tensor_Tensor", sample=Sample(lambda x, y: x.abs() ** y, TWO))(singular_base)
coupling_rule("aten.atan2.default", sample=Sample(torch.atan2, TWO))(binary)
coupling_rule("aten.xlogy.Tensor", sample=Sample(lambda x, y: torch.xlogy(x, 1 + y * y), TWO), zeros="keeps")(binary)
coupling_rule("aten.addcmul.default", sample=Sample(torch.addcmul, (*TWO, (6,))))(addition)


def added_quotient(t: Ties) -> Dims:
    """A sum with a quotient, whose denominator is never zero."""
    t.spare("tensor2")
    return addition(t)


coupling_rule("aten.addcdiv.default", sample=Sample(torch.addcdiv, (*TWO, (6,))))(added_quotient)
coupling_rule("aten.lerp.Tensor", sample=Sample(torch.lerp, (*TWO, (6,))))(addition)
coupling_rule("aten.lerp.Scalar", sample=Sample(lambda x, y: torch.lerp(x, y, 0.3), TWO), zeros="all")(addition)
coupling_rule("aten.clamp.Tensor", sample=Sample(aten.clamp.Tensor, (*TWO, (6,))))(binary)


def prelu(t: Ties) -> Dims:
    """A slope for each channel, on dimension 1."""
    dims = t.dims("self")
    slope = t.dims("weight")
    if slope and slope[0]:
        t.tie(dims[1], slope[0])
    return dims


coupling_rule(
    "aten.prelu.default",
    sample=Sample(lambda x, weight: nn.functional.prelu(x, weight), ((6, 5),), {"weight": (6,)}),
    zeros="keeps",
)(prelu)

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
for _name in COMPARISONS:
    _op = getattr(aten, _name)
    coupling_rule(
        f"aten.{_name}.Tensor", sample=Sample(lambda x, y, op=_op: op.Tensor(x.round(), y.round()).float(), TWO)
    )(binary)
    coupling_rule(f"aten.{_name}.Scalar", sample=Sample(lambda x, op=_op: op.Scalar(x.round(), 1).float()))(unary)


def _bits(x: Tensor) -> Tensor:
    return (4 * x).round().long()


for _name in ("__and__", "__or__", "__xor__", "bitwise_and", "bitwise_or", "bitwise_xor"):
    _op = getattr(aten, _name)
    coupling_rule(
        f"aten.{_name}.Tensor", sample=Sample(lambda x, y, op=_op: op.Tensor(_bits(x), _bits(y)).float(), TWO)
    )(binary)
    coupling_rule(f"aten.{_name}.Scalar", sample=Sample(lambda x, op=_op: op.Scalar(_bits(x), 3).float()))(unary)
for _name in ("bitwise_left_shift", "bitwise_right_shift"):
    _op = getattr(aten, _name).Tensor_Scalar
    coupling_rule(f"aten.{_name}.Tensor_Scalar", sample=Sample(lambda x, op=_op: op(_bits(x), 1).float()))(unary)
for _name in ("__lshift__", "__rshift__"):
    _op = getattr(aten, _name).Scalar
    coupling_rule(f"aten.{_name}.Scalar", sample=Sample(lambda x, op=_op: op(_bits(x), 1).float()))(unary)
for _name in ("logical_and", "logical_or", "logical_xor"):
    _op = getattr(aten, _name).default
    coupling_rule(f"aten.{_name}.default", sample=Sample(lambda x, y, op=_op: op(x > 0, y > 0).float(), TWO))(binary)

coupling_rule("aten.where.self", sample=Sample(lambda x, y, z: torch.where(x > 0, y, z), (*TWO, (6,))), zeros="none")(
    binary
)
coupling_rule("aten.where.ScalarOther", sample=Sample(lambda x, y: torch.where(x > 0, y, 0.5), TWO))(binary)
coupling_rule("aten.where.ScalarSelf", sample=Sample(lambda x, y: torch.where(x > 0, 0.5, y), TWO))(binary)
coupling_rule("aten.where.Scalar", sample=Sample(lambda x: torch.where(x > 0, 0.5, 0.25)))(unary)


def fill_zeros(t: Ties) -> Zeros:
    """Filling with zero keeps zeros."""
    return "keeps" if t["value"] == 0 else "none"


coupling_rule("aten.masked_fill.Scalar", sample=Sample(lambda x, y: x.masked_fill(y > 0, 0.5), TWO), zeros=fill_zeros)(
    binary
)
coupling_rule(
    "aten.masked_fill.Tensor",
    sample=Sample(lambda x, y: aten.masked_fill.Tensor(x, y > 0, torch.tensor(0.5)), TWO),
)(binary)
