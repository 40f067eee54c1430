"""Selections of which the position has no meaning."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Axes = Callable[..., dict[str, int]]


def _written(x: Tensor) -> Tensor:
    filled = torch.zeros_like(x)
    filled[..., 0] = x.sum(-1)
    return x + filled[..., 0, None]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.zeros_like(x, dtype=torch.int)[..., 0, None],
        lambda x: x * torch.full_like(x, 0.5)[:, :, -1, None],
        lambda x: x + torch.ones_like(x[..., 0]).cumsum(1)[..., None],
        lambda x: x + x.new_full((4, 6), 0.25).to(torch.float64)[..., 0, None].float(),
    ],
    ids=["of zeros", "of a number", "read for its size", "cast"],
)
def test_any_position_would_do(around: Axes, function: Callable[[Tensor], Tensor]) -> None:
    assert around(function) == {"enter.weight:0": 6}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x[..., 0, None],
        lambda x: x + torch.zeros_like(x)[..., 2, None],
        lambda x: x + (torch.zeros_like(x) + x)[..., 0, None],
        _written,
    ],
    ids=["of numbers", "in the middle", "of a sum", "of zeros that are written to"],
)
def test_a_position_that_is_told_apart_freezes(around: Axes, function: Callable[[Tensor], Tensor]) -> None:
    assert around(function) == {}
