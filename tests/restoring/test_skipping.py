"""Branches and blocks that are left out, in the user's own modules."""

import pytest
import torch
from restoring.models import Attention, Model, seeded
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import graphopt
from graphopt.restoring.recording import Run
from graphopt.restoring.skipping import Nothing, PassOn, take_out


def model() -> Model:
    return Model([Attention(32, 4), Attention(32, 4), Attention(32, 4)])


def tokens() -> Tensor:
    return torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(1))


def restored(spec: str) -> nn.Module:
    made = seeded(model)
    result = graphopt.optimize(made, (tokens(),), passes=spec, context=graphopt.PassContext(seed=0, verify=False))
    found = result.module(made)
    with torch.no_grad():
        torch.testing.assert_close(found(tokens()), result.program(tokens()), rtol=1e-4, atol=1e-5)
    assert len(made.blocks) == 3
    left = sum(one.numel() for one in found.parameters())
    assert left == sum(one.numel() for one in result.program.graph_module.parameters())
    return found


@pytest.mark.parametrize("then", ["", ",prune-channels{ratio=0.5,importance=random}"])
def test_a_block_leaves_its_list(then: str) -> None:
    found = restored("prune-layers{layers=[block.1]}" + then)
    assert len(found.blocks) == 2
    assert not any(isinstance(one, PassOn) for one in found.modules())


@pytest.mark.parametrize("then", ["", ",prune-channels{ratio=0.5,importance=random}"])
def test_a_branch_gives_zeros(then: str) -> None:
    found = restored('prune-layers{units=branch,layers=["blocks.0.mixer"]}' + then)
    assert isinstance(found.blocks[0].mixer, Nothing)
    assert isinstance(found.blocks[0].norm1, Nothing)
    assert isinstance(found.blocks[1].mixer, Attention)


def test_what_passes_on_keeps_the_structure() -> None:
    structure = pytree.tree_structure((0, {"weights": 1}))
    first, second = torch.ones(2), torch.zeros(2)
    assert PassOn(structure, (1, None))(second, states=first) == (first, {"weights": None})


def test_nothing_gives_what_can_be_added() -> None:
    structure = pytree.tree_structure((0, 1))
    run = Run("layer", ((0, (2, 6, 8), None),), ((0, (2, 6, 4), None),), structure)
    zeros, rest = Nothing(run)(torch.ones(5, 6, 8))
    assert (zeros.shape, rest) == ((5, 6, 1), None)
    assert not zeros.any()


def test_only_members_of_lists_are_taken_out() -> None:
    made = nn.ModuleDict({"many": nn.ModuleList([nn.Identity(), nn.ReLU(), nn.Identity()]), "one": nn.Identity()})
    take_out(made, ["many.0", "one", "many.2"])
    assert [type(one) for one in made["many"]] == [nn.ReLU]
    assert "one" in made
