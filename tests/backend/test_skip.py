"""Layers that the user names are left out, also after the weights change."""

from __future__ import annotations

import copy

import pytest
import torch
from backend.models import Recorder
from caching.tiny import Stack, stack, tokens
from torch import nn
from torch.nn.utils import prune

import graphopt


def without(model: Stack, number: int) -> Stack:
    short = stack()
    short.load_state_dict(model.state_dict())
    short.blocks = nn.ModuleList(block for place, block in enumerate(short.blocks) if place != number)
    return short


def compiled(model: nn.Module, *names: str, **options: object) -> nn.Module:
    given = {"inner": "recorder", "skip": list(names), **options}
    return torch.compile(model, backend="graphopt", options=given)


def test_a_named_block_is_left_out(recorder: Recorder) -> None:
    model = stack()
    fast = compiled(model, "blocks.1")
    for batch in (2, 3):
        found, wanted = fast(*tokens(batch=batch)), without(model, 1)(*tokens(batch=batch))
        torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        model.blocks[1].first.weight.add_(1)
        model.head.weight.add_(1)
    torch.testing.assert_close(fast(*tokens()), without(model, 1)(*tokens()))
    assert len(recorder.graphs) == 2


@torch.no_grad()
def test_a_named_block_stays_out_of_a_rewritten_graph(recorder: Recorder) -> None:
    model = stack()
    model.blocks[0].first.weight[:10] = 0
    model.blocks[0].first.bias[:10] = 0
    fast = compiled(model, "blocks.1")
    torch.testing.assert_close(fast(*tokens()), without(model, 1)(*tokens()))
    assert any(tuple(tensor.shape) == (22, 16) for tensor in recorder.graphs[0].buffers())
    model.blocks[0].first.weight.fill_(0.1)
    torch.testing.assert_close(fast(*tokens()), without(model, 1)(*tokens()))
    assert graphopt.invalidate(model) == 1
    torch.testing.assert_close(fast(*tokens()), without(model, 1)(*tokens()))


@torch.no_grad()
def test_a_masked_weight_is_the_one_of_now(recorder: Recorder) -> None:
    """What a mask leaves of a weight is computed before each call, and left on the module."""
    model = stack()
    prune.ln_structured(model.blocks[0].first, "weight", 0.5, n=2, dim=0)
    fast = torch.compile(model, backend="graphopt", options={"inner": "recorder", "skip": ["blocks.1"]}, fullgraph=True)

    def wanted() -> torch.Tensor:
        short = copy.deepcopy(model)
        short.blocks = nn.ModuleList(block for place, block in enumerate(short.blocks) if place != 1)
        found: torch.Tensor = short(*tokens())
        return found

    torch.testing.assert_close(fast(*tokens()), wanted())
    model.blocks[0].first.weight_orig.mul_(2)
    torch.testing.assert_close(fast(*tokens()), wanted())


@pytest.mark.parametrize(
    ("name", "message"),
    [("blocks.7", "found no block for 'blocks.7'"), ("head", "found no block for 'head'")],
)
def test_names_that_fit_nothing(recorder: Recorder, name: str, message: str) -> None:
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=message):
        compiled(stack(), name)(*tokens())


def test_a_graph_that_must_stay_as_it_is(recorder: Recorder) -> None:
    class Noisy(Stack):
        def forward(self, *args: torch.Tensor) -> torch.Tensor:
            return torch.dropout(super().forward(*args), 0.5, True)

    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed) as error:
        compiled(Noisy().eval().requires_grad_(False), "blocks.1")(*tokens())
    assert "option skip cannot be met for graph [0/0]: dropout draws random numbers" in str(error.value)
    assert "fullgraph=True" in str(error.value)


def test_gradients(recorder: Recorder) -> None:
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="option skip is for models that run only"):
        compiled(stack().requires_grad_(True), "blocks.1")(*tokens())
