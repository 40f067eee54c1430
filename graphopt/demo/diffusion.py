"""Noise schedule, training and deterministic sampling of the demo's diffusion model.

Times run from 0 (an image) to 1 (noise) on the cosine path ``x_t = cos(πt/2) x + sin(πt/2) noise``. The model predicts
the velocity ``cos(πt/2) noise - sin(πt/2) x``, from which both image and noise follow at any time, t = 1 included.

References:
    Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, ICML 2021, arXiv 2102.09672 (cosine path,
    here without its offset). Salimans and Ho, Progressive Distillation, ICLR 2022, arXiv 2202.00512 (velocity).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.demo.digits import CLASSES, LabelledImages
from graphopt.demo.progress import shown
from graphopt.scores.calibration import Batch

NO_LABEL = CLASSES
"""The label that stands for no label in classifier-free guidance."""

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A denoiser: noised images, times and labels to the predicted velocity."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a diffusion model is trained, or a pruned one recovered.

    Attributes:
        steps: Optimiser steps.
        batch_size: Images per step.
        learning_rate: Peak of AdamW's rate, after a linear warm-up and before a cosine decay to zero.
        warm_up: Steps of linear warm-up.
        label_dropout: Share of labels replaced by `NO_LABEL`.
        average: Decay of the exponential moving average that becomes the result.
        seed: Seeds batches, times and noise.
    """

    steps: int = 700
    batch_size: int = 64
    learning_rate: float = 2e-3
    warm_up: int = 50
    label_dropout: float = 0.1
    average: float = 0.99
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How images are drawn from a diffusion model.

    Attributes:
        count: Images per seed, evenly spread over the classes.
        steps: Denoising steps.
        guidance: Weight of the conditional over the unconditional prediction; 1 is without guidance.
        seeds: One independent draw for each.
    """

    count: int = 200
    steps: int = 25
    guidance: float = 1.25
    seeds: tuple[int, ...] = (0, 1, 2)


def signal_and_noise(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of image and noise at times ``t`` in [0, 1], each of the shape of ``t``."""
    angle = t * (math.pi / 2)
    return angle.cos(), angle.sin()


def noised_batches(data: LabelledImages, config: TrainingConfig) -> Iterator[Batch]:
    """Yield noised batches without end.

    Args:
        data: Images to draw from, with replacement.
        config: Batch size, label dropout and seed.

    Yields:
        Batches with ``args = (x_t, t, y)`` of shapes (batch, 1, 8, 8), (batch,) and (batch,), and the velocity, shaped
        as ``x_t``, as ``target``.
    """
    generator = torch.Generator().manual_seed(config.seed)
    size = config.batch_size
    while True:
        rows = torch.randint(len(data), (size,), generator=generator)
        images = data.images[rows]
        dropped = torch.rand(size, generator=generator) < config.label_dropout
        labels = data.labels[rows].masked_fill(dropped, NO_LABEL)
        t = torch.rand(size, generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        signal, sigma = (weight.view(-1, 1, 1, 1) for weight in signal_and_noise(t))
        yield Batch(args=(signal * images + sigma * noise, t, labels), target=signal * noise - sigma * images)


def diffusion_loss(output: Tensor, batch: Batch) -> Tensor:
    """Return the mean squared error of a predicted velocity, a scalar.

    Args:
        output: Shaped as ``batch.target``.
        batch: From `noised_batches`.
    """
    return functional.mse_loss(output, batch.target)


def train(model: nn.Module, data: LabelledImages, config: TrainingConfig, description: str = "training") -> float:
    """Train a model in place; its weights end as the moving average over the steps.

    Args:
        model: Called as ``model(x_t, t, y)``.
        data: Images to learn from.
        config: Steps, rates and seed.
        description: Text in front of the progress bar.

    Returns:
        The mean loss over the last tenth of the steps.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    values = [parameter.detach() for parameter in parameters]
    averages = [value.clone() for value in values]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _relative_rate(step, config))
    batches = noised_batches(data, config)
    losses = []
    model.train()
    for step in shown(range(config.steps), description):
        batch = next(batches)
        loss = diffusion_loss(model(*batch.args), batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        _follow(averages, values, min(config.average, (1 + step) / (10 + step)))
        losses.append(loss.item())
    _follow(values, averages, decay=0.0)
    model.eval()
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


@torch.no_grad()
def sample(model: Velocity, labels: Tensor, config: SamplingConfig, seed: int) -> Tensor:
    """Draw images with DDIM and classifier-free guidance.

    Args:
        model: Called as ``model(x_t, t, y)`` once a step.
        labels: (count,) int64 classes to draw.
        config: Steps and guidance.
        seed: Seeds the noise that is started from; everything else is deterministic.

    Returns:
        (count, 1, 8, 8) images in [-1, 1].

    References:
        Song, Meng and Ermon, Denoising Diffusion Implicit Models, ICLR 2021, arXiv 2010.02502. Ho and Salimans,
        Classifier-Free Diffusion Guidance, arXiv 2207.12598. The image predicted at each step is clipped to [-1, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((len(labels), 1, 8, 8), generator=generator)
    times = torch.linspace(1.0, 0.0, config.steps + 1)
    for now, after in itertools.pairwise(times):
        velocity = _guided(model, x, now, labels, config.guidance)
        signal, sigma = signal_and_noise(now)
        image = (signal * x - sigma * velocity).clamp(-1, 1)
        noise = (x - signal * image) / sigma
        signal, sigma = signal_and_noise(after)
        x = signal * image + sigma * noise
    return x.clamp(-1, 1)


def _guided(model: Velocity, x: Tensor, now: Tensor, labels: Tensor, guidance: float) -> Tensor:
    """Return the velocity under guidance; both predictions come from one call, and without guidance there is one."""
    if guidance == 1:
        return model(x, now.repeat(len(x)), labels)
    both = torch.cat([labels, torch.full_like(labels, NO_LABEL)])
    conditional, free = model(torch.cat([x, x]), now.repeat(len(both)), both).chunk(2)
    return free + guidance * (conditional - free)


def _relative_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate at a step as a fraction of its peak."""
    return min(1.0, (step + 1) / config.warm_up) * (1 + math.cos(math.pi * step / config.steps)) / 2


def _follow(averages: list[Tensor], values: list[Tensor], decay: float) -> None:
    """Move each average towards its value; decay 0 moves it all the way."""
    for average, value in zip(averages, values, strict=True):
        average.lerp_(value, 1 - decay)
