"""What torch.export makes of a model, where the two runs of the quick trace do not agree."""

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import CaptureError


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


def test_gradients_are_refused_where_torch_export_is_asked_too() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone().unsqueeze_(0).requires_grad_()
            return torch.autograd.grad(self.layer(x).square().sum(), x)[0]

    with pytest.raises(CaptureError, match=r"takes gradients of its own.*test_torch_export\.py:\d+: .*opaque"):
        graphopt.capture(Force(), (torch.randn(2, 6),))


def test_a_transform_that_torch_export_leaves_in_is_named() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(self.layer)(x) * len(x) ** 0.5

    with pytest.raises(CaptureError, match=r"leaves a transform of torch\.func in it, such as vmap"):
        graphopt.capture(Mapped(), (torch.randn(2, 6),), specialise=False)
