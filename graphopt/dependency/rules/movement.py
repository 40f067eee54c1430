"""Operators that move dimensions or nothing at all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.ties import Dims, Ties
from graphopt.known import make_known

aten = torch.ops.aten


def unchanged(t: Ties) -> Dims:
    """The output has the dimensions of the first operand."""
    return t.dims(t.tensors()[0])


def _turned(x: Tensor) -> Tensor:
    return torch.complex(x, 2 * x) * (0.6 + 0.8j)


def _written(x: Tensor) -> Tensor:
    """A literal that is written to: capture lets any other lie in its own memory without a copy."""
    literal = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    return x * literal.fill_(0.5) + literal


CPU = torch.device("cpu")
UNCHANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "_conj.default": lambda x: torch.angle(aten._conj.default(_turned(x))),
    "_to_copy.default": aten._to_copy.default,
    "clone.default": torch.clone,
    "conj.default": lambda x: torch.angle(aten.conj.default(_turned(x))),
    "contiguous.default": lambda x: x.expand(3, -1, -1).transpose(0, 1).contiguous(),
    "detach.default": torch.detach,
    "imag.default": lambda x: aten.imag.default(_turned(x)),
    "lift_fresh_copy.default": _written,
    "real.default": lambda x: aten.real.default(_turned(x)),
    "resolve_conj.default": lambda x: torch.angle(aten.resolve_conj.default(_turned(x).conj())),
    "to.device": lambda x: aten.to.device(x, CPU, torch.float32, False, True),
    "to.dtype": lambda x: x.to(torch.float64).to(torch.float32),
    "to.dtype_layout": lambda x: aten.to.dtype_layout(x, dtype=torch.float32, copy=True),
    "to.other": lambda x: aten.to.other(x, torch.zeros(1), False, True),
}
for _name, _call in UNCHANGED.items():
    coupling_rule(f"aten.{_name}", sample=Sample(_call), zeros="keeps")(unchanged)
make_known("aten.alias.default")  # capture drops it; operators computed from it may be expanded


@coupling_rule("aten.permute.default", sample=Sample(lambda x: x.permute(0, 3, 1, 2), ((3, 4, 5),)), zeros="keeps")
def permute(t: Ties) -> Dims:
    """Reorder all dimensions."""
    dims = t.dims("self")
    return [dims[position] for position in t["dims"]]


@coupling_rule("aten.transpose.int", sample=Sample(lambda x: x.transpose(1, 2), ((3, 4),)), zeros="keeps")
def transpose(t: Ties) -> Dims:
    """Swap two dimensions."""
    dims = t.dims("self")
    if dims:
        first, second = t["dim0"], t["dim1"]
        dims[first], dims[second] = dims[second], dims[first]
    return dims


@coupling_rule(
    "aten.t.default",
    sample=Sample(lambda x, weight: x @ aten.t.default(weight), ((6,),), {"weight": (8, 6)}),
    zeros="keeps",
)
def reverse(t: Ties) -> Dims:
    """Reverse the dimensions."""
    return t.dims("self")[::-1]
