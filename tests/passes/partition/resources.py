"""Numbers of devices that do not hang on this machine, and models to spread over them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

import graphopt
from graphopt.stages import Partition

ROOFLINE = {"name": "toy", "flops_per_second": 1e8, "bytes_per_second": 1e9, "overhead_seconds": 1e-7}


def roofline_file(folder: Path, **change: float) -> str:
    """Write peak numbers of a device; return what the option ``costs`` takes."""
    path = folder / "device.json"
    path.write_text(json.dumps(ROOFLINE | change), encoding="utf-8")
    return f"roofline:{path}"


def partition_of(result: graphopt.Result) -> Partition:
    """The partition of a result that has one."""
    assert result.partition is not None
    return result.partition


class Tall(nn.Module):
    """Equal layers, one after the other."""

    def __init__(self, layers: int = 8, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, sample: Tensor) -> Tensor:
        for layer in self.layers:
            sample = torch.tanh(layer(sample))
        return sample


def tall(layers: int = 8) -> tuple[nn.Module, tuple[Tensor]]:
    """The tall model and an input."""
    torch.manual_seed(0)
    return Tall(layers).eval(), (torch.randn(16, 64, generator=torch.Generator().manual_seed(0)),)
