"""What the partitions of `hand_made` compute, written down step by step in one process."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hand_made import WIDTH, first, second
from torch import Tensor

from graphopt.wire import extrapolated, packed


def inputs(rows: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(rows, WIDTH, generator=generator), "t": torch.tensor([0.25])}


def loop(step: Callable[[dict[str, Tensor]], Tensor], steps: int, given: dict[str, Tensor]) -> list[Tensor]:
    """A sampling loop: x loses a tenth of the output, t is another tensor at each step."""
    found = []
    for number in range(steps):
        out = step(given)
        found.append(out)
        given = {"x": given["x"] - 0.1 * out, "t": given["t"] + number}
    return found


def oracle(warm_up: int | None, extrapolate: float = 0.0, age: int = 1) -> Callable[[dict[str, Tensor]], Tensor]:
    """One step after the other; late values from ``warm_up`` on, never where it is None."""
    kept: list[Tensor] = []

    def step(given: dict[str, Tensor]) -> Tensor:
        h = packed(first(given["x"], given["t"])[0])
        read = h
        if warm_up is not None and len(kept) >= warm_up:
            earlier = kept[-age - 1] if len(kept) > age else None
            read = extrapolated(kept[-age], earlier, extrapolate)
        kept.append(h)
        return second(read, given["t"])[0]

    return step
