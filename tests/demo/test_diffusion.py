import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from graphopt.demo.diffusion import (
    NO_LABEL,
    SamplingConfig,
    TrainingConfig,
    diffusion_loss,
    noised_batches,
    sample,
    signal_and_noise,
    train,
)
from graphopt.demo.digits import LabelledImages
from graphopt.demo.model import DiT, DiTConfig
from graphopt.scores import Batch

CONFIG = TrainingConfig(steps=60, batch_size=16, warm_up=5, learning_rate=5e-3)
SAMPLING = SamplingConfig(count=4, steps=5)


@pytest.fixture
def data() -> LabelledImages:
    """Two images, each of one shade, labelled by it."""
    shades = torch.tensor([-0.5, 0.75])
    return LabelledImages(shades.view(2, 1, 1, 1).expand(2, 1, 8, 8), torch.tensor([0, 1]))


class Oracle(nn.Module):
    """Knows that every image of class y has one shade, and gives the velocity that leads there."""

    def __init__(self, shades: list[float], free: float) -> None:
        super().__init__()
        self.shades = torch.tensor([*shades, *[free] * (NO_LABEL + 1 - len(shades))])

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        signal, sigma = (weight.view(-1, 1, 1, 1) for weight in signal_and_noise(t))
        image = self.shades[y].view(-1, 1, 1, 1).expand_as(x)
        return (signal * x - image) / sigma


def test_weights_of_image_and_noise_lie_on_the_circle() -> None:
    signal, sigma = signal_and_noise(torch.tensor([0.0, 1 / 3, 0.5, 1.0]))
    half = 0.5**0.5
    torch.testing.assert_close(signal, torch.tensor([1.0, 0.75**0.5, half, 0.0]))
    torch.testing.assert_close(sigma, torch.tensor([0.0, 0.5, half, 1.0]))


def test_image_follows_from_noised_image_and_target(data: LabelledImages) -> None:
    batch = next(noised_batches(data, replace(CONFIG, label_dropout=0.0)))
    noised, t, labels = batch.args
    signal, sigma = (weight.view(-1, 1, 1, 1) for weight in signal_and_noise(t))
    torch.testing.assert_close(signal * noised - sigma * batch.target, data.images[labels], atol=1e-5, rtol=0)


def test_batches_depend_on_the_seed_alone(data: LabelledImages) -> None:
    first, again, other = (next(noised_batches(data, replace(CONFIG, seed=seed))) for seed in (3, 3, 4))
    assert torch.equal(first.args[0], again.args[0])
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.target, other.target)


def test_share_of_dropped_labels(data: LabelledImages) -> None:
    batches = itertools.islice(noised_batches(data, replace(CONFIG, label_dropout=0.25)), 100)
    labels = torch.cat([batch.args[2] for batch in batches])
    assert float((labels == NO_LABEL).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert set(labels.tolist()) == {0, 1, NO_LABEL}


def test_loss_is_the_mean_squared_error() -> None:
    output, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert diffusion_loss(output, Batch(args=(), target=target)).item() == 2.5


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_sampling_with_the_true_velocity_ends_at_the_image(steps: int) -> None:
    labels = torch.tensor([0, 1, 1])
    drawn = sample(Oracle([-0.5, 0.75], 0.0), labels, SamplingConfig(steps=steps, guidance=1.0), seed=0)
    wanted = torch.tensor([-0.5, 0.75, 0.75]).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    torch.testing.assert_close(drawn, wanted, atol=1e-5, rtol=0)


def test_guidance_goes_beyond_the_conditional_prediction() -> None:
    drawn = sample(Oracle([0.5], 0.2), torch.tensor([0]), SamplingConfig(steps=1, guidance=2.0), seed=0)
    torch.testing.assert_close(drawn, torch.full((1, 1, 8, 8), 0.8), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 3), (1.5, 6)])
def test_a_step_is_one_call_and_unguided_ones_are_half_as_wide(guidance: float, rows: int) -> None:
    calls: list[tuple[int, list[int]]] = []
    oracle = Oracle([0.5], 0.2)

    def watched(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        calls.append((len(x), y.tolist()))
        return oracle(x, t, y)

    sample(watched, torch.tensor([0, 1, 2]), SamplingConfig(steps=4, guidance=guidance), seed=0)
    assert calls == [(rows, [0, 1, 2, NO_LABEL, NO_LABEL, NO_LABEL][:rows])] * 4


def test_sampling_depends_on_the_seed_alone() -> None:
    model = DiT(DiTConfig(width=16, depth=1, heads=2)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    labels = torch.arange(4)
    first, again, other = (sample(model, labels, SAMPLING, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.abs().max()) <= 1


def test_training_lowers_the_loss_and_repeats_itself(data: LabelledImages) -> None:
    losses = []
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        model = DiT(DiTConfig(width=16, depth=1, heads=2))
        losses.append(train(model, data, CONFIG))
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert losses[0] == losses[1]
    assert torch.equal(*weights)
    first = next(noised_batches(data, CONFIG))
    assert losses[0] < 0.8 * float(first.target.square().mean())


def test_training_ends_at_the_average_of_the_weights(data: LabelledImages) -> None:
    model = DiT(DiTConfig(width=16, depth=1, heads=2))
    before = model.out.weight.detach().clone()
    train(model, data, replace(CONFIG, steps=1, average=1.0))
    averaged = model.out.weight.detach().clone()
    assert not model.training
    # The decay of the first step is 1/10: nine tenths of the way to the new weights, which are off by one rate.
    moved = (averaged - before).abs() / (0.9 * CONFIG.learning_rate / CONFIG.warm_up)
    torch.testing.assert_close(moved, torch.ones_like(moved), atol=1e-2, rtol=0)
