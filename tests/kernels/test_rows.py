"""Rows that lie apart in memory, in the kernels over rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from graphopt.kernels import find_kernel, row_sums
from graphopt.kernels.rows import in_order, stretches, with_rows

RUN, SUM = find_kernel("cached_apply"), find_kernel("stack_apply")
CHANNELS = 32
WIDE = torch.zeros(2, 9, 1152, dtype=torch.bfloat16)


def hidden(*shape: int) -> Tensor:
    return torch.zeros(*shape, CHANNELS, dtype=torch.bfloat16)


LAYOUTS = {
    "whole": (hidden(2, 5), 1, (0, 32), True),
    "whole, by samples": (hidden(2, 5), 2, (160, 32), True),
    "parts of samples": (hidden(2, 9)[:, 4:], 2, (288, 32), True),
    "parts of rows": (torch.zeros(2, 5, 3 * CHANNELS)[..., CHANNELS : 2 * CHANNELS], 1, (0, 96), True),
    "planes": (hidden(2, 3, 5), 2, (480, 32), True),
    "every second row": (hidden(2, 10)[:, ::2], 1, (0, 64), True),
    "one vector": (hidden(), 1, (0, 0), True),
    "rows are samples": (hidden(5), 5, (32, 0), True),
    "permuted": (torch.zeros(2, CHANNELS, 5).mT, 2, (160, 32), False),
    "parts of planes": (hidden(2, 3, 5)[:, :, 1:], 2, (384, 32), False),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_steps(name: str) -> None:
    tensor, batch, steps, stays = LAYOUTS[name]
    (found,), known = with_rows([tensor], batch)
    assert known == steps
    assert (found is tensor) == stays
    assert stays or found.is_contiguous()


def test_tensors_without_steps_in_common_are_copied() -> None:
    whole, part = hidden(2, 5), hidden(2, 9)[:, 4:]
    found, steps = with_rows([whole, part], 2)
    assert found[0] is whole
    assert found[1].is_contiguous()
    assert steps == (160, 32)
    assert with_rows([part, part], 2)[0][1] is part


def test_parts_of_samples_are_taken_one_sample_after_another() -> None:
    whole, part = hidden(2, 5), hidden(2, 9)[:, 4:]
    assert stretches([whole, whole], 1) == 1
    assert stretches([whole, part], 1) == 2
    assert stretches([hidden(5)[::2]], 1) == 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_order_is_that_of_an_elementwise_result(name: str) -> None:
    tensor = LAYOUTS[name][0]
    assert in_order(tensor) == (tensor + tensor).is_contiguous()


def arguments(x: Tensor, stored: Tensor) -> tuple[Any, ...]:
    row = torch.zeros(2, 1, x.shape[-1], dtype=x.dtype)
    return x, stored, None, None, row, row, "layer", 1e-6


@pytest.mark.parametrize("modulated", [True, False])
def test_parts_of_samples_are_read_where_they_lie(modulated: bool, compiled: Any) -> None:
    x, stored, *rest = arguments(WIDE[:, 4:], WIDE[:, 2:7])
    rest = rest if modulated else [None, None, None, None, *rest[4:]]
    for keeps in (False, True):
        (launch,) = compiled(row_sums, lambda keeps=keeps: row_sums.launch(x, [stored], [], *rest, keeps=keeps))
        assert launch.arguments["x"] is x
        assert launch.arguments["cached0"] is stored
        assert "ld.global.v4.b32" in launch.ptx
    size, rows = x.numel() * 2, 2 * 2 * x.shape[-1] * 2 * modulated
    assert RUN.bytes_after(x, [stored], [], *rest, False) == 4 * size + rows
    assert SUM.bytes_after(x, stored, *rest, False) == 3 * size + rows


def test_copies_are_counted() -> None:
    whole, permuted = hidden(2, 5), torch.zeros(2, CHANNELS, 5, dtype=torch.bfloat16).mT
    size, row = whole.numel() * 2, 2 * 2 * CHANNELS * 2
    for x, stored, run, summed in (
        (whole, whole, 4, 3),
        (whole, permuted, 6, 5),
        (permuted, whole, 8, 5),
        (permuted, permuted, 10, 7),
    ):
        given = arguments(x, stored)
        moved = RUN.bytes_after(x, [stored], [], *given[2:], False)
        assert moved == run * size + row
        assert moved < RUN.bytes_before(x, [stored], [given[4]], *given[2:], False)
        assert SUM.bytes_after(*given, False) == summed * size + row
        assert SUM.bytes_after(*given, False) < SUM.bytes_before(*given, False)
