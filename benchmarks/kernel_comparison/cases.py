"""What is compared: arguments of every kernel at the shapes of known denoisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graphopt.kernels import Kernel, find_kernel

Arguments = tuple[Any, ...]
STATISTICS = 7
"""Place of the kept statistics among the arguments of `split_group_norm`."""


@dataclass(frozen=True)
class Maker:
    """Makes tensors of random numbers.

    Attributes:
        device: where; the meta device has shapes alone.
        dtype: their type, where no other is asked for.
    """

    device: str
    dtype: torch.dtype

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Make one of a shape."""
        return torch.randn(shape, device=self.device, dtype=dtype or self.dtype)


@dataclass(frozen=True)
class Case:
    """One kernel at one shape.

    Attributes:
        model: the denoiser that has the shape.
        kernel: the kernel's name.
        shape: the shape and what sets the case apart, in words.
        make: its arguments, from a maker.
        estimate: tensors read and written before and after, as expected when the kernels were planned; None where
            nothing was.
    """

    model: str
    kernel: str
    shape: str
    make: Callable[[Maker], Arguments]
    estimate: tuple[int, int] | None

    @property
    def entry(self) -> Kernel:
        """The kernel's entry in the table."""
        return find_kernel(self.kernel)

    def unfused(self, arguments: Arguments) -> Arguments:
        """What the reference is given to do the same: statistics that were kept are no use to single operations."""
        return arguments[:STATISTICS] if self.kernel == "split_group_norm" else arguments

    def unit_bytes(self, arguments: Arguments) -> float:
        """Bytes of one hidden tensor; of a half, the mean of both, where two are joined."""
        if self.kernel == "split_group_norm":
            return sum(half.numel() * half.element_size() for half in arguments[:2]) / 2
        first = next(argument for argument in arguments if isinstance(argument, Tensor))
        return first.numel() * first.element_size()


def cases() -> Iterator[Case]:
    """All cases, model by model."""
    for batch in (2, 16, 64):
        yield from _transformer("DiT-XL/2", batch, 256, 1152)
    yield from _unet("SD1.5", 2, ((64, 320, 320), (64, 640, 320), (32, 640, 640), (16, 1280, 1280)))
    yield from _unet("SD1.5", 8, ((64, 320, 320),))
    yield from _attention("SD1.5", 2, ((4096, 320), (1024, 640), (256, 1280)))
    yield from _unet("SDXL", 2, ((128, 320, 320), (128, 640, 320), (64, 640, 640), (32, 1280, 1280)))
    yield from _attention("SDXL", 2, ((4096, 640), (1024, 1280)))
    yield from _transformer("Flux", 1, 4096 + 512, 3072, counts=(1, 2, 4), orders=(1, 2))


def _transformer(
    model: str, batch: int, tokens: int, width: int, counts: tuple[int, ...] = (1,), orders: tuple[int, ...] = (1,)
) -> Iterator[Case]:
    """A diffusion transformer: everything is modulated by the timestep."""
    shape = f"{batch} × {tokens} × {width}"
    make = partial(_cached_apply, batch, tokens, width)
    for count in counts:
        text = shape if count == 1 else f"{shape}, {count} cached"
        yield Case(model, "cached_apply", text, partial(make, count=count), (5 * count + 6, count + 3))
    yield Case(model, "stack_apply", shape, partial(_stack_apply, batch, tokens, width), (9, 3))
    for order in orders:
        make_series = partial(_taylor_add, batch, tokens, width, order)
        yield Case(model, "taylor_add", f"{shape}, order {order}", make_series, (9 + 5 * order, 3 + order))
    yield Case(model, "relative_l1", shape, partial(_relative_l1, batch, tokens, width), (12, 3))


def _attention(model: str, batch: int, stages: tuple[tuple[int, int], ...]) -> Iterator[Case]:
    """Transformer blocks of a U-Net: a stored attention is added without a gate, and the norm has weight and bias."""
    for tokens, width in stages:
        shape = f"{batch} × {tokens} × {width}"
        yield Case(model, "cached_apply", f"{shape}, no gate", partial(_plain_apply, batch, tokens, width), None)
    tokens, width = stages[0]
    make = partial(_taylor_add, batch, tokens, width, 1)
    yield Case(model, "taylor_add", f"{batch} × {tokens} × {width}, order 1", make, (14, 4))


def _unet(model: str, batch: int, stages: tuple[tuple[int, int, int], ...]) -> Iterator[Case]:
    """Up blocks of a U-Net: side of the square, channels of the stored half, channels of the fresh one."""
    for side, stored, fresh in stages:
        shape = f"{batch} × ({stored} + {fresh}) × {side}²"
        make = partial(_split_group_norm, batch, side, stored, fresh)
        yield Case(model, "split_group_norm", shape, partial(make, kept=False), (18, 10))
        yield Case(model, "split_group_norm", f"{shape}, statistics kept", partial(make, kept=True), None)
    side, stored, _ = stages[0]
    make_one = partial(_channel_statistics, batch, side, stored)
    yield Case(model, "channel_statistics", f"{batch} × {stored} × {side}²", make_one, None)


def _cached_apply(batch: int, tokens: int, width: int, maker: Maker, *, count: int) -> Arguments:
    x = maker(batch, tokens, width)
    cached = [maker(batch, tokens, width) for _ in range(count)]
    gates = [maker(batch, 1, width) for _ in range(count)]
    return x, cached, gates, None, None, maker(batch, 1, width), maker(batch, 1, width), "layer", 1e-6, False


def _plain_apply(batch: int, tokens: int, width: int, maker: Maker) -> Arguments:
    x, stored = maker(batch, tokens, width), maker(batch, tokens, width)
    return x, [stored], [], maker(width), maker(width), None, None, "layer", 1e-5, False


def _stack_apply(batch: int, tokens: int, width: int, maker: Maker) -> Arguments:
    x, stored = maker(batch, tokens, width), maker(batch, tokens, width)
    return x, stored, None, None, maker(batch, 1, width), maker(batch, 1, width), "layer", 1e-6, False


def _taylor_add(batch: int, tokens: int, width: int, order: int, maker: Maker) -> Arguments:
    base, value, *differences = (maker(batch, tokens, width) for _ in range(order + 2))
    return base, value, differences, maker(dtype=torch.float32)


def _relative_l1(batch: int, tokens: int, width: int, maker: Maker) -> Arguments:
    value, base, stored = (maker(batch, tokens, width) for _ in range(3))
    return value, base, stored, 0.1


def _split_group_norm(batch: int, side: int, stored: int, fresh: int, maker: Maker, *, kept: bool) -> Arguments:
    halves = maker(batch, fresh, side, side), maker(batch, stored, side, side)
    statistics = maker(batch, stored, 2, dtype=torch.float32).abs() if kept else None
    width = stored + fresh
    return *halves, 32, maker(width), maker(width), 1e-5, True, None, statistics


def _channel_statistics(batch: int, side: int, channels: int, maker: Maker) -> Arguments:
    return (maker(batch, channels, side, side),)
