"""Attention keeps the scale of its original head size: the error of law 1 with and without it."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.proof.comparison import compare
from graphopt.proof.randomise import random_parameters
from graphopt.rewrite.slicing import slice_axes
from graphopt.tracing import capture

HEADS, SIZE = 2, 8
KEPT = [0, 3, 5]
EXACT, WRONG = 1e-5, 1e-2
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class Model(nn.Module):
    """Projections around some attention; heads have their own axis."""

    def __init__(self, attention: Attention, *, key_heads: int = HEADS) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(6, HEADS * SIZE), nn.Linear(HEADS * SIZE, 5)
        self.key, self.value = (nn.Linear(6, key_heads * SIZE) for _ in range(2))
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, tokens, 6)``."""
        batch, tokens, _ = x.shape
        query, key, value = (
            layer(x).view(batch, tokens, -1, SIZE).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = self.attention(query, key, value).transpose(1, 2)
        return self.out(mixed.reshape(batch, tokens, -1))


def by_default(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The operator derives its scale from the size that it sees."""
    return nn.functional.scaled_dot_product_attention(query, key, value)


def causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same with a mask."""
    return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def grouped(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One key for several queries."""
    return nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)


def with_a_scale(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The scale is the model's own."""
    return nn.functional.scaled_dot_product_attention(query, key, value, scale=0.3)


def by_hand(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Written out; the root of the size is a number by the time of capture."""
    weights = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    return weights.softmax(-1) @ value


def by_einsum(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Written out with einsum and a scaled query."""
    weights = torch.einsum("bhqd,bhkd->bhqk", query * query.shape[-1] ** -0.5, key)
    return torch.einsum("bhqk,bhkd->bhqd", weights.softmax(-1), value)


DERIVED = {"default": (by_default, HEADS), "causal": (causal, HEADS), "grouped": (grouped, 1)}
FIXED = {"scale": (with_a_scale, HEADS), "by hand": (by_hand, HEADS), "einsum": (by_einsum, HEADS)}


def error(attention: Attention, key_heads: int, *, keep_scale: bool) -> float:
    torch.manual_seed(0)
    graph = DependencyGraph(capture(Model(attention, key_heads=key_heads).eval(), (torch.randn(2, 4, 6),)))
    axis = next(group.id for group in graph.groups if group.kind == "qk_dim")
    if not keep_scale:
        graph.analysis.facts.explicits.clear()
    program, values = slice_axes(graph, {axis: KEPT}), random_parameters(graph.tensors, 0)
    return compare(graph, program, {axis: KEPT}, values, (graph.program.args, graph.program.kwargs)).error


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_scale_is_written_out(name: str) -> None:
    attention, key_heads = DERIVED[name]
    assert error(attention, key_heads, keep_scale=False) > WRONG
    assert error(attention, key_heads, keep_scale=True) < EXACT


@pytest.mark.parametrize("name", FIXED)
def test_a_scale_that_is_a_number_stays(name: str) -> None:
    attention, key_heads = FIXED[name]
    assert error(attention, key_heads, keep_scale=True) < EXACT
