"""Complex numbers and Fourier transforms."""

from __future__ import annotations

import torch
from torch import Tensor

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.ties import Dims, Ties

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
    """A transform along some dimensions: these stay, the others pass."""
    dims, shape = t.dims("self"), t.out_shape
    for axis in _transformed(t, len(dims)):
        t.freeze(dims[axis], TRANSFORMED)
        dims[axis] = t.frozen(shape[axis], TRANSFORMED)
    return dims


def _transformed(t: Ties, rank: int) -> list[int]:
    """Dimensions that a transform runs over; without any given the last ones, as many as there are sizes."""
    if not t.has("dim") and "s" in t.names() and t.has("s"):
        return list(range(rank - len(t["s"]), rank))
    return t.axes("dim", rank)


SAMPLES = {
    "fft_fft": Sample(lambda x: torch.fft.fft(x, dim=1).real, ((4, 6),)),
    "fft_fft2": Sample(lambda x: torch.fft.fft2(x, dim=(1, 2)).real, ((4, 3, 6),)),
    "fft_fftn": Sample(lambda x: torch.fft.fftn(x, (3, 6)).real, ((4, 3, 6),)),
    "fft_rfft": Sample(lambda x: torch.fft.rfft(x, dim=1).real, ((4, 6),)),
    "fft_irfft2": Sample(lambda x: torch.fft.irfft2(torch.fft.rfft2(x, dim=(1, 2)) * 2, dim=(1, 2)), ((4, 3, 6),)),
    "fft_fftshift": Sample(lambda x: torch.fft.fftshift(x, dim=1), ((4, 6),)),
}
TRANSFORMS = (
    "_fft_c2c",
    "_fft_c2r",
    "_fft_r2c",
    "fft_fft",
    "fft_fft2",
    "fft_fftn",
    "fft_fftshift",
    "fft_hfft",
    "fft_ifft",
    "fft_ifft2",
    "fft_ifftn",
    "fft_ifftshift",
    "fft_ihfft",
    "fft_irfft",
    "fft_irfft2",
    "fft_irfftn",
    "fft_rfft",
    "fft_rfft2",
    "fft_rfftn",
)
for _name in TRANSFORMS:
    coupling_rule(f"aten.{_name}.default", sample=SAMPLES.get(_name), zeros="keeps")(transform)
