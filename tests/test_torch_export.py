"""What torch.export makes of a model, where the two runs of the quick trace do not agree."""

import torch
from torch import Tensor, nn

import graphopt


class Doubling(nn.Module):
    """Doubles what it gets where there are many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x * 2 if x.shape[0] > 3 else x)


def test_code_that_goes_another_way_at_a_larger_batch_keeps_the_examples() -> None:
    model = Doubling()
    few = graphopt.capture(model, (torch.randn(2, 6),))
    assert not few.dynamic_batch
    assert few.notes == ("static batch: the model's code goes another way at batch 6 than at 2",)
    many, x = graphopt.capture(model, (torch.randn(4, 6),)), torch.randn(7, 6)
    assert many.dynamic_batch
    torch.testing.assert_close(many(x), model(x))
