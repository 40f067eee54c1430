from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphopt.demo.classifier import ClassifierConfig
from graphopt.demo.diffusion import TrainingConfig
from graphopt.demo.digits import Digits, LabelledImages, load_digits
from graphopt.demo.model import DiTConfig
from graphopt.demo.pretrained import diffusion_transformer, diffusion_unet, digit_classifier
from graphopt.demo.unet import UNetConfig

SIZES = DiTConfig(width=16, depth=1, heads=2)
TRAINING = TrainingConfig(steps=5, batch_size=8)
JUDGE = ClassifierConfig(width=4, features=8, epochs=1)


@pytest.fixture(scope="module")
def digits() -> Digits:
    whole = load_digits()
    return Digits(LabelledImages(whole.train.images[:64], whole.train.labels[:64]), whole.held_out)


def test_cached_models_equal_the_trained_ones(digits: Digits, tmp_path: Path) -> None:
    inputs = torch.randn(3, 1, 8, 8), torch.rand(3), torch.arange(3)
    outputs = []
    for _ in range(2):
        model = diffusion_transformer(tmp_path, digits, SIZES, TRAINING)
        judge = digit_classifier(tmp_path, digits, JUDGE)
        assert not model.training
        assert not judge.training
        outputs.append((model(*inputs), judge(inputs[0])))
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert torch.equal(outputs[0][1], outputs[1][1])
    assert float(outputs[0][0].detach().abs().max()) > 0


def test_sizes_and_steps_have_their_own_weights(digits: Digits, tmp_path: Path) -> None:
    first = diffusion_transformer(tmp_path, digits, SIZES, TRAINING)
    longer = diffusion_transformer(tmp_path, digits, SIZES, replace(TRAINING, steps=6))
    wider = diffusion_transformer(tmp_path, digits, replace(SIZES, width=24), TRAINING)
    assert not torch.equal(first.out.weight, longer.out.weight)
    assert wider.out.weight.shape == (4, 24)


def test_the_unet_is_kept_beside_the_transformer(digits: Digits, tmp_path: Path) -> None:
    sizes = UNetConfig(widths=(8,), blocks=1, heads=2, groups=4, condition=8)
    diffusion_transformer(tmp_path, digits, SIZES, TRAINING)
    first, again = (diffusion_unet(tmp_path, digits, sizes, TRAINING) for _ in range(2))
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["dit", "unet"]
    assert torch.equal(first.conv_out.weight, again.conv_out.weight)
    assert float(first.conv_out.weight.detach().abs().max()) > 0


def test_the_global_generator_is_left_alone(digits: Digits, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for _ in range(2):
        diffusion_transformer(tmp_path, digits, SIZES, TRAINING)
        digit_classifier(tmp_path, digits, JUDGE)
    assert torch.equal(torch.get_rng_state(), before)
