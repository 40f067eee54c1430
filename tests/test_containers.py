"""Objects that hold tensors are part of the structure of a call, without the user registering their classes."""

import copy
import dataclasses
from collections import OrderedDict, UserDict
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphopt
from graphopt.containers import register_containers
from graphopt.errors import GraphoptError


class Layer:
    """What one attention keeps for the next call; no tensor yet at the first."""

    def __init__(self) -> None:
        self.keys: torch.Tensor | None = None
        self.dtype = torch.float32

    def update(self, keys: torch.Tensor) -> torch.Tensor:
        self.keys = keys if self.keys is None else torch.cat([self.keys, keys], 1)
        return self.keys


class Cache:
    """The layers of a model, and how more are made."""

    def __init__(self, layers: int) -> None:
        self.layers = [Layer() for _ in range(layers)]
        self.made_of = Layer
        self.length = 0


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    cache: Cache


class Decoder(nn.Module):
    """Two layers that look at what they have seen in earlier calls."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.ModuleList(nn.Linear(8, 6) for _ in range(2))
        self.mix = nn.ModuleList(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, cache: Cache | None = None) -> Answer:
        cache = Cache(2) if cache is None else cache
        for layer, keys, mix in zip(cache.layers, self.keys, self.mix, strict=True):
            x = x + mix(layer.update(keys(x)).mean(1, keepdim=True))
        cache.length += 1
        return Answer(self.head(x), cache)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: torch.Tensor
    b: int = 1


class Named(OrderedDict):
    """A dict with a type and an attribute of its own."""

    note: torch.Tensor


class Listed(list):
    """A list with a type."""


class Kind(Enum):
    SUM = "sum"
    NONE = "none"


def named() -> Named:
    made = Named(a=torch.ones(2), b=torch.zeros(3))
    made.note = torch.full((1,), 7.0)
    return made


def tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def same(left: Any, right: Any) -> bool:
    pairs = zip(tensors(left), tensors(right), strict=True)
    return all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)


class Nested(SimpleNamespace):
    """Holds one of its own class."""


OBJECTS = [
    Frozen(torch.ones(2)),
    named(),
    Listed([torch.ones(2), 3]),
    UserDict(a=torch.ones(2)),
    SimpleNamespace(a=torch.ones(2), b=[torch.zeros(1), None], kind=int),
    Nested(a=Nested(b=torch.ones(2))),
    Cache(2),
]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_an_object_is_taken_apart_and_put_together(value: Any) -> None:
    register_containers(value)
    leaves, spec = pytree.tree_flatten(value)
    assert any(leaf is not value for leaf in leaves)
    again = pytree.tree_unflatten([leaf + 1 if torch.is_tensor(leaf) else leaf for leaf in leaves], spec)
    assert type(again) is type(value)
    assert pytree.tree_structure(again) == spec == copy.deepcopy(spec)
    assert [*map(torch.Tensor.tolist, tensors(again))] == [(leaf + 1).tolist() for leaf in tensors(leaves)]
    assert pytree.tree_structure(pytree.tree_unflatten(range(len(leaves)), spec)) == spec


def test_what_is_no_container_stays_a_leaf() -> None:
    class Circle(SimpleNamespace):
        """Holds itself."""

    circle = Circle(a=torch.ones(2))
    circle.itself = circle
    for value in (torch.ones(2), 3, "text", None, torch.float32, nn.Linear(2, 2), Layer, len, circle):
        register_containers(value)
        assert pytree.tree_leaves(value)[0] is value or value is None


def test_a_member_of_an_enumeration_is_a_constant() -> None:
    class Reduced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, kind: Kind) -> torch.Tensor:
            y = self.linear(x)
            return y.sum(1) if kind is Kind.SUM else y

    model = Reduced()
    x = torch.randn(3, 4)
    program = graphopt.capture(model, (x, Kind.SUM))
    assert same(program(x, Kind.SUM), model(x, Kind.SUM))
    assert same(program.module()(x, Kind.SUM), model(x, Kind.SUM))
    other = next(kind for kind in Kind if kind is not Kind.SUM)
    with pytest.raises(GraphoptError, match="capture with the other value"):
        program.module()(x, other)


@pytest.mark.parametrize("filled", [False, True])
def test_a_cache_that_is_given_comes_back_longer_and_is_left_as_it_was(filled: bool) -> None:
    model = Decoder().eval()
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cache = model(x).cache if filled else Cache(2)
    program = graphopt.capture(model, (x, cache))
    assert program.dynamic_batch
    more = pytree.tree_map_only(torch.Tensor, lambda tensor: torch.cat([tensor, tensor]), (x, cache))
    found = program(*more)
    assert type(found) is Answer
    assert found.cache.length == cache.length + 1
    assert [layer.keys.shape[1] for layer in found.cache.layers] == [6 if filled else 3] * 2
    assert [layer.keys if not filled else layer.keys.shape[1] for layer in cache.layers] == [3 if filled else None] * 2
    assert same(found, model(*copy.deepcopy(more)))


def test_a_model_that_returns_its_cache_is_pruned_and_comes_back() -> None:
    model = Decoder().eval()
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cache = model(x).cache
    program = graphopt.capture(model, (x, cache))
    result = graphopt.Pipeline("prune-channels{ratio=0.5,scope=uniform}").run(program)
    own = result.module(model)
    assert [keys.out_features for keys in own.keys] == [6, 6]
    assert [mix[0].out_features for mix in own.mix] == [8, 8]
    assert same(own(x, copy.deepcopy(cache)), result.module()(x, cache))
