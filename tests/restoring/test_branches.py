"""The own class serves inputs with holes in their masks too, which take branches that the example does not."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import graphopt

TOKENS, MASK = torch.randn(3, 7, 32), torch.ones(3, 7, dtype=torch.long)
HOLED = MASK.clone()
HOLED[0, 4:] = 0
HOLED[2, 6:] = 0
PASSES = "prune-channels{ratio=0.5,axes=[queries_per_group]}"


class Grouped(nn.Module):
    """Attention with groups of queries, which repeats keys itself where there is something to mask."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 8
        self.query, self.key, self.value = nn.Linear(32, 64), nn.Linear(32, 16), nn.Linear(32, 16)
        self.leave = nn.Linear(64, 5)
        self.repeats = self.query.out_features // self.key.out_features

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (one(x).unflatten(2, (-1, self.size)).transpose(1, 2) for one in (self.query, self.key, self.value))
        if not torch.compiler.is_compiling() and mask.all():
            y = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            k, v = (one[:, :, None].expand(-1, -1, self.repeats, -1, -1).flatten(1, 2) for one in (k, v))
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask.bool()[:, None, None])
        out: Tensor = self.leave(y.transpose(1, 2).flatten(2))
        return out


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_a_number_that_only_a_branch_reads_is_fitted() -> None:
    model = Grouped().eval()
    result = graphopt.optimize(model, (TOKENS, MASK), passes=PASSES)
    own = result.module(model).eval()
    assert (own.query.out_features, own.key.out_features) == (32, 16)
    assert own.repeats * own.key.out_features == own.query.out_features
    with torch.no_grad():
        for mask in (MASK, HOLED):
            torch.testing.assert_close(own(TOKENS, mask), result.program(TOKENS, mask), rtol=1e-4, atol=1e-5)


def test_a_class_that_cannot_be_fitted_is_told() -> None:
    class Fixed(Grouped):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            self.repeats = 4
            return super().forward(x, mask)

    model = Fixed().eval()
    result = graphopt.optimize(model, (TOKENS, MASK), passes=PASSES)
    with pytest.warns(UserWarning, match=r"Fixed was fitted to the example.* where a mask has zeros: .*capture with"):
        result.module(model)


def test_nothing_is_said_where_the_class_serves_holes() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(32, 16), nn.Linear(16, 5)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            out: Tensor = self.leave(self.enter(x).relu() * mask[..., None])
            return out

    model = Summed().eval()
    result = graphopt.optimize(model, (TOKENS, MASK), passes="prune-channels{ratio=0.5}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = result.module(model)
    torch.testing.assert_close(own(TOKENS, HOLED), result.program(TOKENS, HOLED))
