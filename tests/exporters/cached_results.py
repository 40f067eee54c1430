"""A small denoiser with schedules of each kind that the tests of cached ONNX files write and play."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import graphopt
from graphopt.pass_manager.result import Result

UNIFORM = "insert-cache{cuts=[add_1:add_3],schedule=uniform:3,allow_dead=[extra_bias]}"
LINEAR = "insert-cache{cuts=[add_1:add_3],schedule=uniform:3,predictor=linear,allow_dead=[extra_bias]}"
THRESHOLD = "insert-cache{cuts=[add_1:add_3],threshold=0.05,probe=mul:add_1,allow_dead=[extra_bias]}"
TABLE = "insert-cache{cuts=[add_1,add_3],table=[00,10,01,11],allow_dead=[*]}"


class Denoiser(nn.Module):
    """Two residual branches; a bias enters the second, an input is read by nobody, a weight is used both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.third = nn.Linear(8, 8)
        self.head = nn.Linear(8, 8)

    def forward(
        self, sample: Tensor, timestep: Tensor, *, extra: dict[str, Tensor], unused: Tensor, return_dict: bool
    ) -> dict[str, Tensor] | tuple[Tensor, None]:
        entry = self.first(sample) * (1 + timestep.reshape(-1, 1) / 1000)
        middle = entry + torch.tanh(self.second(entry))
        late = middle + torch.tanh(self.third(middle) + extra["bias"])
        out = self.head(late) + sample @ self.head.weight
        return {"sample": out} if return_dict else (out, None)


def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser().eval().requires_grad_(False)


def call(step: int = 0, batch: int = 2) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
    """What the model is called with at a step."""
    torch.manual_seed(7)
    sample, bias = torch.randn(batch, 8), torch.randn(batch, 8)
    kwargs = {"extra": {"bias": bias}, "unused": torch.zeros(batch, 1), "return_dict": False}
    return (sample * (1 + 0.02 * step), torch.tensor(900 - 50 * step)), kwargs


def cached_result(spec: str) -> Result:
    args, kwargs = call()
    return graphopt.Pipeline(spec).run(graphopt.capture(denoiser(), args, kwargs))
