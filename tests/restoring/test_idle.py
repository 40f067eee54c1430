"""Modules that the class runs for nothing."""

import torch
from restoring.models import Attention, Block, seeded
from torch import Tensor, nn

import graphopt
from graphopt.pass_manager.result import Result
from graphopt.restoring.skipping import Nothing, PassOn


class Pooled(nn.Module):
    """Its answer comes from the block before the last; the last one and the pooler run for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 32)
        self.blocks = nn.ModuleList(Block(Attention(32, 4), 32) for _ in range(2))
        self.pooler = nn.Linear(32, 24)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](self.embed(x))
        self.pooler(self.blocks[1](x)[:, 0]).tanh()
        return self.head(x)


def tokens() -> tuple[Tensor, ...]:
    return (torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(1)),)


def pruned(model: nn.Module, passes: str) -> Result:
    return graphopt.optimize(model, tokens(), passes=passes, context=graphopt.PassContext(seed=0, verify=False))


def test_what_runs_for_nothing_gets_a_stand_in_where_it_does_not_fit() -> None:
    model = seeded(Pooled)
    result = pruned(model, "prune-channels{ratio=0.5,importance=random}")
    restored = result.module(model)
    assert (type(restored.blocks[1]), type(restored.pooler)) == (PassOn, Nothing)
    assert isinstance(restored.blocks[0], Block)
    assert isinstance(model.pooler, nn.Linear)
    for rows in (1, 4):
        x = torch.cat([tokens()[0]] * rows)
        with torch.no_grad():
            torch.testing.assert_close(restored(x), result.program(x), rtol=1e-4, atol=1e-5)


def test_what_still_fits_stays() -> None:
    model = seeded(Pooled)
    result = pruned(model, 'prune-channels{ratio=0,importance=random,ratios=["blocks.0.mlp.*=0.5"]}')
    restored = result.module(model)
    assert restored.blocks[0].mlp[0].weight.shape == (32, 32)
    assert isinstance(restored.blocks[1], Block)
    assert torch.equal(restored.pooler.weight, model.pooler.weight)
