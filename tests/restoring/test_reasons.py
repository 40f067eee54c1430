"""Why a class cannot say what a program does: module, line and what to do."""

import re

import pytest
import torch
from restoring.models import Attention, Model, seeded
from torch import Tensor, nn

import graphopt
from graphopt.errors import ModuleRestoreError

HALF = "prune-channels{ratio=0.5,importance=random}"


class Waves(nn.Module):
    """A table whose values follow its width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        width = x.shape[-1]
        rates = torch.arange(width) / width
        return self.head(torch.relu(x + rates.sin()))


class Taken(Attention):
    """It takes the width of the stream for that of its heads."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width))


def why(model: nn.Module, passes: str) -> str:
    x = torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(1))
    result = graphopt.optimize(model, (x,), passes=passes, context=graphopt.PassContext(seed=0, verify=False))
    with pytest.raises(ModuleRestoreError) as raised:
        result.module(model)
    return str(raised.value)


def test_the_call_that_first_gives_something_else_is_named() -> None:
    text = why(seeded(Waves), HALF)
    assert re.search(
        r"the model itself \(\S+test_reasons.py:\d+\): arange gives something else than in the program", text
    )


def test_a_size_that_is_taken_for_another_brings_advice() -> None:
    model = seeded(lambda: Model([Taken(32, 4)]))
    text = why(model, 'prune-channels{ratio=0.5,importance=random,ratios=["blocks.0.mixer.*=0.25"]}')
    assert "blocks.0.mixer" in text
    assert "the code passes shape[2] of another tensor, wanted 24" in text
    assert "uniform_per_layer=true" in text
