"""Complex numbers and Fourier transforms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.terms import all_frozen, dim_size
from graphopt.dependency.ties import Dims, Ties

aten = torch.ops.aten
PARTS = "real and imaginary part"
TRANSFORMED = "a Fourier transform runs over it"


def _turned(x: Tensor) -> Tensor:
    """Through complex numbers and back, so that the sample ends in real ones."""
    turned = torch.view_as_complex(x) * (0.6 + 0.8j)
    return torch.view_as_real(turned)


@coupling_rule("aten.view_as_complex.default", sample=Sample(_turned, ((6, 2),)), zeros="keeps")
def view_as_complex(t: Ties) -> Dims:
    """``(..., 2)`` to complex ``(...)``."""
    *dims, parts = t.dims("self")
    t.freeze(parts, PARTS)
    return dims


@coupling_rule("aten.view_as_real.default", sample=Sample(_turned, ((6, 2),)), zeros="keeps")
def view_as_real(t: Ties) -> Dims:
    """Complex ``(...)`` to ``(..., 2)``."""
    return [*t.dims("self"), t.frozen(2, PARTS)]


@coupling_rule(
    "aten.complex.default",
    sample=Sample(lambda x, y: torch.view_as_real(torch.complex(x, y)), ((6,), (6,))),
    zeros="all",
)
def complex_number(t: Ties) -> Dims:
    """Real and imaginary parts together."""
    return t.broadcast(t.dims("real"), t.dims("imag"))


@coupling_rule(
    "aten.polar.default",
    sample=Sample(lambda x, y: torch.view_as_real(torch.polar(x, y)), ((6,), (6,))),
    zeros="keeps",
)
def polar(t: Ties) -> Dims:
    """Absolute value and angle together; zero where the absolute value is."""
    return t.broadcast(t.dims("abs"), t.dims("angle"))


@coupling_rule("aten.angle.default", sample=Sample(torch.angle))
def angle(t: Ties) -> Dims:
    """The angle of each number."""
    return t.dims("self")


def transform(t: Ties) -> Dims:
    """A transform along some dimensions, which stay where their sizes change; the others pass."""
    dims, shape = t.dims("self"), t.out_shape
    for axis in _transformed(t, len(dims)):
        if dim_size(dims[axis]) != shape[axis]:
            t.freeze(dims[axis], TRANSFORMED)
            dims[axis] = t.frozen(shape[axis], TRANSFORMED)
        elif not all_frozen(t.resolve(dims[axis])):
            t.spread("self", axis)
    return dims


def _transformed(t: Ties, rank: int) -> list[int]:
    """Dimensions that a transform runs over; without any given the last ones, as many as there are sizes."""
    if not t.has("dim") and "s" in t.names() and t.has("s"):
        return list(range(rank - len(t["s"]), rank))
    return t.axes("dim", rank)


def _spectrum(x: Tensor) -> Tensor:
    return torch.complex(x, 2 * x)


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "_fft_c2c": lambda x: aten._fft_c2c.default(_spectrum(x), [1, 2], 0, True).real,
    "_fft_c2r": lambda x: aten._fft_c2r.default(_spectrum(x), [1, 2], 0, 4),
    "_fft_r2c": lambda x: aten._fft_r2c.default(x, [1, 2], 0, True).real,
    "fft_fft": lambda x: aten.fft_fft.default(x, None, 1).real,
    "fft_fft2": lambda x: aten.fft_fft2.default(x, None, [1, 2]).real,
    "fft_fftn": lambda x: aten.fft_fftn.default(x, [3, 6]).real,
    "fft_fftshift": lambda x: aten.fft_fftshift.default(x, [1]),
    "fft_hfft": lambda x: aten.fft_hfft.default(_spectrum(x), None, 1),
    "fft_ifft": lambda x: aten.fft_ifft.default(x, None, 1).real,
    "fft_ifft2": lambda x: aten.fft_ifft2.default(x, None, [1, 2]).real,
    "fft_ifftn": lambda x: aten.fft_ifftn.default(x, None, [1, 2]).real,
    "fft_ifftshift": lambda x: aten.fft_ifftshift.default(x, [1]),
    "fft_ihfft": lambda x: aten.fft_ihfft.default(x, None, 1).real,
    "fft_irfft": lambda x: aten.fft_irfft.default(_spectrum(x), None, 1),
    "fft_irfft2": lambda x: aten.fft_irfft2.default(_spectrum(x), None, [1, 2]),
    "fft_irfftn": lambda x: aten.fft_irfftn.default(_spectrum(x), None, [1, 2]),
    "fft_rfft": lambda x: aten.fft_rfft.default(x, None, 1).real,
    "fft_rfft2": lambda x: aten.fft_rfft2.default(x, None, [1, 2]).real,
    "fft_rfftn": lambda x: aten.fft_rfftn.default(x, None, [1, 2]).real,
}
for _name, _call in TRANSFORMS.items():
    coupling_rule(f"aten.{_name}.default", sample=Sample(_call, ((4, 3, 6),)), zeros="keeps")(transform)
