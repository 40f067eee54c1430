"""Calibration batches and a loss, as the command line takes them: ``--calibration examples/my_data.py:batches``."""

import torch
from torch import Tensor, nn

from graphopt import Batch


def batches() -> list[Batch]:
    """Four batches of eight images; here random ones, in your code real data."""
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(
            args=(torch.randn(8, 1, 8, 8, generator=generator),),
            target=torch.randint(0, 10, (8,), generator=generator),
        )
        for _ in range(4)
    ]


def loss(output: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of ``output: (batch, 10)``."""
    return nn.functional.cross_entropy(output, batch.target)
