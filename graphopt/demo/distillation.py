"""Losses between a sentence encoder and the one it was pruned from; no labels are needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.demo.encoder import Tokens
from graphopt.demo.progress import shown
from graphopt.scores import Batch


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """How a pruned encoder is trained on.

    Attributes:
        steps: Optimiser steps.
        batch_size: Sentences per step.
        learning_rate: Peak of AdamW's rate, before a cosine decay to zero.
        seed: Seeds the batches.
    """

    steps: int = 80
    batch_size: int = 32
    learning_rate: float = 3e-4
    seed: int = 0


def disturbed_batches(
    tokens: Tokens, embeddings: Tensor, *, count: int, noise: float, seed: int, size: int = 32
) -> tuple[Batch, ...]:
    """Make batches whose target is the encoder's own output, a little beside itself.

    Against its own output an encoder's loss has a gradient of exactly zero, and with it every gradient score; noise on
    the target makes the gradient tell how strongly each weight bears on the output.

    Args:
        tokens: (count, length) token ids and mask of enough sentences.
        embeddings: (count, width) embeddings of those sentences by the encoder that is going to be pruned.
        count: Batches.
        noise: Standard deviation of the noise.
        seed: Seeds the noise.
        size: Sentences per batch.

    References:
        Chen et al., SlimSAM: 0.1% Data Makes Segment Anything Slim, NeurIPS 2024, arXiv 2312.05284 (disturbed Taylor).
    """
    generator = torch.Generator().manual_seed(seed)
    targets = embeddings + noise * torch.randn(embeddings.shape, generator=generator)
    ids, mask = tokens
    parts = zip(*(part[: count * size].split(size) for part in (ids, mask, targets)), strict=True)
    return tuple(Batch(args=(ids, mask), target=target) for ids, mask, target in parts)


def embedding_loss(output: Tensor, batch: Batch) -> Tensor:
    """Return the mean squared error between embeddings and ``batch.target``, both (batch, width); a scalar."""
    return functional.mse_loss(output, batch.target)


def distil(
    encoder: nn.Module, tokens: Tokens, embeddings: Tensor, config: DistillationConfig, description: str
) -> None:
    """Train an encoder in place to give known embeddings; its vocabulary tables stay as they are.

    Args:
        encoder: Called as ``encoder(input_ids, attention_mask)``.
        tokens: (count, length) token ids and mask.
        embeddings: (count, width) embeddings of unit length to be met.
        config: Steps, rate and seed.
        description: Text in front of the progress bar.
    """
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("embeddings." not in name)
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    order = _batches(len(embeddings), config)
    encoder.train()
    for rows in shown(order, description):
        output = encoder(tokens[0][rows], tokens[1][rows])
        loss = (1 - (output * embeddings[rows]).sum(dim=1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    encoder.eval()


def _batches(count: int, config: DistillationConfig) -> Sequence[Tensor]:
    """Return the rows of every step's batch, epoch after epoch."""
    generator = torch.Generator().manual_seed(config.seed)
    epochs = math.ceil(config.steps * config.batch_size / count)
    rows = torch.cat([torch.randperm(count, generator=generator) for _ in range(epochs)])
    return list(torch.split(rows[: config.steps * config.batch_size], config.batch_size))
