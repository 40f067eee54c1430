"""Products of tensors of two types: torch refuses them on real tensors and not on stand-ins."""

import pytest
import torch
from torch import nn

from graphopt import capture
from graphopt.errors import CaptureError


class Attending(nn.Module):
    """Attention of a stream to itself by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(8, 16)
        self.narrow = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.wide(x)
        return self.narrow((hidden @ hidden.mT).softmax(-1) @ hidden)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64], ids=str)
def test_inputs_of_another_type_than_the_weights_are_refused_by_capture(dtype: torch.dtype) -> None:
    wanted = rf"raises on the example inputs.* found {dtype} and torch.float32, wanted one type.*make the model run"
    with pytest.raises(CaptureError, match=wanted):
        capture(Attending(), (torch.ones(2, 5, 8, dtype=dtype),))


def test_autocast_makes_them_one_type() -> None:
    class Cast(Attending):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    model, x = Cast().eval(), torch.randn(2, 5, 8).bfloat16()
    program = capture(model, (x,))
    torch.testing.assert_close(program(x), model(x))
