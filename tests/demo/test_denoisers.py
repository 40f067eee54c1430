"""What both denoisers of the demo have in common."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from graphopt.demo.model import DiT, DiTConfig
from graphopt.demo.unet import UNet, UNetConfig

Make = Callable[[], nn.Module]
MAKERS: dict[str, Make] = {
    "dit": lambda: DiT(DiTConfig(width=16, depth=2, heads=2, mlp_ratio=2)),
    "unet": lambda: UNet(UNetConfig(widths=(8, 12), blocks=2, attention=(1,), heads=2, groups=4, condition=16)),
}


@pytest.fixture(params=MAKERS)
def awake(request: pytest.FixtureRequest) -> nn.Module:
    """A model without the zeros it starts with."""
    model = MAKERS[request.param]().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 1, 8, 8), torch.rand(batch), torch.arange(batch) % 11


def test_samples_of_a_batch_do_not_see_each_other(awake: nn.Module) -> None:
    x, t, y = inputs(4)
    torch.testing.assert_close(awake(x, t, y)[2:3], awake(x[2:3], t[2:3], y[2:3]), atol=1e-5, rtol=1e-4)


def test_every_input_matters(awake: nn.Module) -> None:
    x, t, y = inputs(4)
    output = awake(x, t, y)
    for other in ((x + 1, t, y), (x, t / 2, y), (x, t, (y + 1) % 11)):
        changed = (awake(*other) - output).abs().amax(dim=(1, 2, 3))
        assert changed.gt(0).tolist() == [True] * 4
