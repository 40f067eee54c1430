"""Attention with scores of the user's own is captured as the operators that compute it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import graphopt

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")
LENGTH = 16


class Scored(nn.Module):
    """Four heads, two groups of keys, a slope for each head, or a mask of blocks."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.groups, self.size = 4, 2, 8
        self.enter, self.leave = nn.Linear(6, 32), nn.Linear(32, 3)
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(32, 16)
        self.slopes = nn.Parameter(torch.randn(4))
        blocks = create_block_mask(lambda b, h, q, k: q > k, None, None, LENGTH, LENGTH, device="cpu")
        self.blocks = blocks if causal else None

    def score(self, score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + self.slopes[h] * (q - k)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q = self.query(x).unflatten(2, (self.heads, self.size)).transpose(1, 2)
        k, v = (one(x).unflatten(2, (self.groups, self.size)).transpose(1, 2) for one in (self.key, self.value))
        score = None if self.blocks is not None else self.score
        y = flex_attention(q, k, v, score_mod=score, block_mask=self.blocks, enable_gqa=True)
        out: Tensor = self.leave(y.transpose(1, 2).flatten(2))
        return out


@pytest.mark.parametrize("causal", [False, True])
def test_scores_and_masks_are_written_out(causal: bool) -> None:
    torch.manual_seed(0)
    model = Scored(causal=causal).eval()
    program = graphopt.capture(model, (torch.randn(2, LENGTH, 6),))
    assert program.dynamic_batch
    x = torch.randn(5, LENGTH, 6)
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_scores_are_computed_in_the_precision_of_torch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = Scored(causal=False).eval().to(dtype), torch.randn(2, LENGTH, 6, dtype=dtype)
    program = graphopt.capture(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x))


def test_heads_with_a_slope_each_go_together() -> None:
    torch.manual_seed(0)
    model, x = Scored(causal=False).eval(), torch.randn(3, LENGTH, 6)
    result = graphopt.optimize(model, (torch.randn(2, LENGTH, 6),), passes="prune-channels{ratio=0.5}")
    own = result.module(model)
    assert own.slopes.shape == (own.heads,)
    assert own.heads * own.size == own.query.out_features < 32
    with torch.no_grad():
        torch.testing.assert_close(own(x), result.program(x), rtol=1e-4, atol=1e-5)
