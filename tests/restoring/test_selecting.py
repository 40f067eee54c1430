"""Tables that a class computes whole."""

import copy

import numpy as np
import pytest
import torch
from restoring.models import seeded
from torch import Tensor, nn

import graphopt
from graphopt.restoring.selecting import SelectInputs, Selection, SelectOutputs, _period


class Sines(nn.Module):
    """Sines of positions, of a width that is written out in the code."""

    def forward(self, x: Tensor) -> Tensor:
        rates = 100.0 ** -(torch.arange(32) / 32)
        return torch.sin(torch.arange(x.shape[1])[:, None] * rates) + 1


class Slopes(nn.Module):
    """Attention whose scores have a slope for each head added, which the model computes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor, slopes: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, 8).permute(2, 0, 3, 1, 4)
        scores = slopes.unsqueeze(-1) + (q @ k.mT).reshape(b * self.heads, n, n)
        return self.out((scores.softmax(-1).view(b, self.heads, n, n) @ v).transpose(1, 2).reshape(b, n, -1))


class Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.sines, self.mixer, self.head = nn.Linear(12, 32), Sines(), Slopes(), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        slopes = 2.0 ** -torch.arange(4)[:, None] * torch.arange(x.shape[1])
        return self.head(self.mixer(x + self.sines(x), slopes.repeat(x.shape[0], 1)))


def tokens() -> Tensor:
    return torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(1))


def test_hooks_select_what_the_program_keeps_of_tables() -> None:
    model = seeded(Tables)
    context = graphopt.PassContext(seed=0, verify=False)
    result = graphopt.optimize(
        model, (tokens(),), passes="prune-channels{ratio=0.5,importance=random}", context=context
    )
    restored = result.module(model)
    (outputs,) = restored.sines._forward_hooks.values()
    (inputs,) = restored.mixer._forward_pre_hooks.values()
    assert isinstance(outputs, SelectOutputs)
    assert isinstance(inputs, SelectInputs)
    assert sum(outputs.selections[0].kept) == restored.embed.out_features == 16
    assert (sum(inputs.selections[0].kept), len(inputs.selections[0].kept)) == (2, 4)
    assert not model.sines._forward_hooks
    for rows in (1, 4):
        x = torch.cat([tokens()] * rows)
        with torch.no_grad():
            torch.testing.assert_close(restored(x), result.program(x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(copy.deepcopy(restored)(x), restored(x))


def test_a_selection_repeats_and_leaves_what_it_does_not_know() -> None:
    one = Selection(0, 1, (True, False, True))
    assert one(torch.arange(6).view(1, 6)).tolist() == [[0, 2, 3, 5]]
    assert one(torch.arange(4).view(1, 4)).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("mask", "period"), [((1, 0, 1, 0), (True, False)), ((1, 0, 0), (True, False, False)), ((0, 0), (False,))]
)
def test_the_shortest_period(mask: tuple[int, ...], period: tuple[bool, ...]) -> None:
    assert _period(np.array(mask, dtype=bool)) == period
