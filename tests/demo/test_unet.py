import pytest
import torch

import graphopt
from graphopt.demo.unet import Layer, UNet, UNetConfig

SMALL = UNetConfig(widths=(8, 12), blocks=2, attention=(1,), heads=2, groups=4, condition=16)


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 1, 8, 8), torch.rand(batch), torch.arange(batch) % 11


def awake(config: UNetConfig) -> UNet:
    """A model without the zeros it starts with."""
    model = UNet(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("widths", [(8,), (8, 12), (8, 4, 12)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_prediction_has_the_shape_of_the_images(widths: tuple[int, ...], blocks: int) -> None:
    config = UNetConfig(channels=2, widths=widths, blocks=blocks, heads=2, groups=4, condition=8, classes=3)
    output = awake(config)(torch.randn(5, 2, 12, 8), torch.rand(5), torch.tensor([0, 1, 2, 3, 3]))
    assert output.shape == (5, 2, 12, 8)


def test_every_layer_up_takes_in_one_skip() -> None:
    model = UNet(UNetConfig())
    assert len(model.up) == len(model.down) + 1 == 9
    channels = [layer.residual.conv1.in_channels for layer in model.up if isinstance(layer, Layer)]
    assert channels == [64 + 64, 64 + 64, 64 + 48, 64 + 48, 48 + 48, 48 + 32, 48 + 32, 32 + 32, 32 + 32]


def test_a_fresh_model_predicts_zero_and_its_layers_pass_pixels_on() -> None:
    model = UNet(SMALL)
    assert torch.equal(model(*inputs(3)), torch.zeros(3, 1, 8, 8))
    pixels, condition = torch.randn(3, 12, 4, 4), torch.randn(3, 16)
    assert torch.equal(model.middle[0](pixels, condition), pixels)


def test_every_parameter_matters() -> None:
    model = awake(SMALL)
    model(*inputs(4)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0] == []


def test_it_is_captured_with_a_free_batch() -> None:
    model = awake(SMALL)
    program = graphopt.capture(model, inputs(2))
    other = inputs(5)
    assert torch.equal(program.module()(*other), model(*other))


def test_number_of_parameters_of_the_default() -> None:
    assert sum(parameter.numel() for parameter in UNet(UNetConfig()).parameters()) == 1_388_881
