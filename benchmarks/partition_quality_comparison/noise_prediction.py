"""Denoisers that predict the noise, as those do that asynchronous denoising was made for: training and sampling."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from graphopt.demo.caching_quality import Denoiser, Inputs
from graphopt.demo.diffusion import TrainingConfig, noised_batches, signal_and_noise
from graphopt.demo.digits import LabelledImages
from graphopt.demo.progress import shown

LAST_TIME = 0.96
"""Time up to which a model is trained and asked: beyond it the noise says next to nothing of the image."""


def train_to_predict_noise(model: nn.Module, data: LabelledImages, config: TrainingConfig) -> float:
    """Train a model in place; its weights end as the moving average over the steps.

    Args:
        model: Called as ``model(x_t, t, y)``.
        data: Images to learn from.
        config: Steps, rates and seed, as those of the demo's models.

    Returns:
        The mean loss over the last tenth of the steps.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=config.warm_up / config.steps
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.average))
    batches = _batches(data, config)
    losses = []
    model.train()
    for _ in shown(range(config.steps), "training a model to predict the noise"):
        inputs, noise = next(batches)
        loss = functional.mse_loss(model(*inputs), noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        average.update_parameters(model)
        losses.append(loss.item())
    model.load_state_dict(average.module.state_dict())
    model.eval()
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


class FromNoise:
    """A denoiser that predicts the noise, for a sampler that asks for the velocity.

    Args:
        denoiser: Predicts the noise.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity whose image is the one that the predicted noise leaves."""
        asked = t.clamp(max=LAST_TIME)
        signal, sigma = (weight.view(-1, 1, 1, 1) for weight in signal_and_noise(asked))
        image = (x - sigma * self._denoiser(x, asked, y)) / signal
        signal, sigma = (weight.view(-1, 1, 1, 1) for weight in signal_and_noise(t))
        return (signal * x - image) / sigma

    def reset(self) -> None:
        """Start a new generation."""
        self._denoiser.reset()


def _batches(data: LabelledImages, config: TrainingConfig) -> Iterator[tuple[Inputs, Tensor]]:
    """Yield noised images, times and labels with the noise; rows past the last time are left out."""
    for batch in noised_batches(data, config):
        x, t, y = batch.args
        signal, sigma = (weight.view(-1, 1, 1, 1) for weight in signal_and_noise(t))
        kept = t <= LAST_TIME
        yield (x[kept], t[kept], y[kept]), (sigma * x + signal * batch.target)[kept]
