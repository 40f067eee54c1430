"""Copies know what they were made of, whatever the names are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.rewrite.placing.batching import split_batch
from graphopt.rewrite.placing.copies import shares_of
from graphopt.rewrite.placing.staging import stage
from graphopt.rewrite.sharding.sharded import shard
from graphopt.stages import Site


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


@pytest.fixture
def program() -> graphopt.Program:
    return graphopt.capture(Tokens().eval(), (torch.randn(4, 6, 4),))


def totals(shares: dict[str, tuple[str, float]]) -> dict[str, float]:
    found = dict.fromkeys(("linear", "tanh", "linear_1"), 0.0)
    for origin, share in shares.values():
        if origin in found:
            found[origin] += share
    return found


def test_parts_of_a_batch_add_up_to_the_whole(program: graphopt.Program) -> None:
    names = [node.name for node in program.nodes() if node.op == "call_function"]
    whole = stage(program, [names, names])
    assert totals(shares_of(whole)) == pytest.approx({"linear": 1.0, "tanh": 1.0, "linear_1": 1.0})
    parts = split_batch(stage(program, [names]), 3, lambda site, part: Site(part, part))
    assert totals(shares_of(parts)) == pytest.approx({"linear": 1.0, "tanh": 1.0, "linear_1": 1.0})


def test_parts_of_an_axis_have_the_shares_of_their_sizes(program: graphopt.Program) -> None:
    placed = shard(program, 4, axis="x:1").placed
    shares = [share for origin, share in shares_of(placed).values() if origin == "linear"]
    assert sorted(shares) == pytest.approx([1 / 6, 1 / 6, 2 / 6, 2 / 6])


def test_a_name_that_looks_like_a_copy_is_none(program: graphopt.Program) -> None:
    for node in program.graph_module.graph.nodes:
        if node.name == "tanh":
            node._rename("tanh_part_1_on_2_now")
    names = [node.name for node in program.nodes() if node.op == "call_function"]
    assert shares_of(stage(program, [names]))["tanh_part_1_on_2_now"] == ("tanh_part_1_on_2_now", 1.0)
