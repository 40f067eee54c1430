"""Outputs that an exact rewrite may not move."""

import pytest
import torch
from torch import Tensor

from graphopt.errors import VerificationError
from graphopt.proof.unchanged import check_outputs

WIDE = torch.linspace(1, 2, 1000)


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (WIDE, WIDE * 1.001, ()),
        (WIDE, WIDE * 1.05, (torch.bfloat16,)),
        (WIDE.bfloat16(), (WIDE * 1.05).bfloat16(), ()),
        (WIDE, WIDE.double(), ()),
        (WIDE, WIDE[:-1], ()),
        (WIDE.log(), WIDE.log() / (WIDE != 1), ()),
        (torch.arange(50), torch.arange(50) + 1, ()),
        (WIDE > 1.5, WIDE > 1.2, ()),
    ],
)
def test_what_moved_is_refused(before: Tensor, after: Tensor, kinds: tuple[torch.dtype, ...]) -> None:
    with pytest.raises(VerificationError, match="unchanged: an output moved by"):
        check_outputs([torch.ones(1).bfloat16(), before], [torch.ones(1).bfloat16(), after], kinds)


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (WIDE, WIDE * 1.00001, ()),
        (WIDE, WIDE.bfloat16().float(), (torch.bfloat16, torch.int64)),
        (WIDE.bfloat16(), (WIDE * 1.002).bfloat16(), ()),
        (WIDE / 0, WIDE / 0, ()),
        (torch.arange(200), torch.arange(200).clamp(max=198), ()),
        (torch.empty(0), torch.empty(0), ()),
    ],
)
def test_rounding_is_let_through(before: Tensor, after: Tensor, kinds: tuple[torch.dtype, ...]) -> None:
    assert check_outputs([before], [after], kinds).error < 0.01
