"""l2c and dip-go against the papers' own rule, carried out by hooks on the model's modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peers.subjects import randomise_
from torch import Tensor, nn

import graphopt
from graphopt.demo.model import DiT, DiTConfig
from graphopt.runtime.session import CacheSession

STEPS = 8


class Routed:
    """Modules whose output of the last step at which they ran stands in for them where a table says so.

    Learning-to-Cache replaces what attention and MLP return, before gate and residual add, and DiP-GO what a block
    returns.
    """

    def __init__(self, modules: list[nn.Module], table: list[str]) -> None:
        self.table, self.step = table, 0
        self.kept: dict[int, Tensor] = {}
        for number, module in enumerate(modules):
            module.register_forward_hook(lambda _, __, output, number=number: self.route(number, output))

    def route(self, number: int, output: Tensor) -> Tensor:
        if self.table[self.step][number] == "1":
            return self.kept[number]
        self.kept[number] = output
        return output


def inputs_of(step: int) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(step))
    return noise, torch.full((2,), 1.0 - step / STEPS), torch.tensor([1, 2])


def model_of() -> DiT:
    return randomise_(DiT(DiTConfig(width=16, depth=3, heads=2)))  # type: ignore[return-value]


def random_table(columns: int, allowed: Any) -> list[str]:
    generator = torch.Generator().manual_seed(columns)
    rows = []
    for step in range(STEPS):
        bits = torch.randint(2, (columns,), generator=generator).tolist() if allowed(step) else [0] * columns
        rows.append("".join(map(str, bits)))
    return rows


@pytest.mark.parametrize("seed", [0, 1])
def test_learning_to_cache(seed: int) -> None:
    table = random_table(6, lambda step: step % 2 == 1)[seed:] + ["0" * 6] * seed
    table[0] = "0" * 6
    result = graphopt.Pipeline(f"l2c{{table=[{','.join(table)}]}}").run(graphopt.capture(model_of(), inputs_of(0)))
    model = model_of()
    routed = Routed([module for block in model.blocks for module in (block.attn, block.fc2)], table)
    check(result, model, routed)


def test_dip_go_on_a_chain_reuses_what_blocks_add() -> None:
    table = random_table(3, lambda step: step > 0)
    program = graphopt.capture(model_of(), inputs_of(0))
    result = graphopt.Pipeline(f"dip-go{{table=[{','.join(table)}]}}").run(program)
    model = model_of()
    added = [Added(block) for block in model.blocks]
    model.blocks = nn.ModuleList(added)
    check(result, model, Routed([block.branch for block in added], table), tolerance=1e-5)


class Added(nn.Module):
    """A block as its input and what it adds."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.branch = Difference(block)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x + self.branch(x, condition)


class Difference(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        result: Tensor = self.block(x, condition) - x
        return result


def check(result: graphopt.Result, model: nn.Module, routed: Routed, tolerance: float = 0.0) -> None:
    session = CacheSession(result)
    for step in range(STEPS):
        routed.step = step
        with torch.no_grad():
            wanted, found = model(*inputs_of(step)), session(*inputs_of(step))
        distance = float((wanted - found).norm() / wanted.norm())
        assert distance <= tolerance, f"step {step}: {distance:.1e}"
    assert any("1" in row for row in routed.table)
