"""Dead parts: what looks dead and is not."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.dependency.dead import DeadParts
from graphopt.pass_manager import PassContext
from graphopt.passes.cleanup import RemoveDead
from graphopt.proof.unchanged import check_unchanged

INPUT = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
Call = Callable[["Pair", Tensor, Tensor], Tensor]


def unchanged(model: nn.Module, *args: Tensor) -> None:
    program = graphopt.capture(model.eval(), args)
    check_unchanged(program, RemoveDead().run(program, PassContext(verify=False)).program)


class Pair(nn.Module):
    """Two hidden layers whose units are tied by their product, some of them zero and some unread."""

    def __init__(self, call: Call, first: range, second: range, unread: range) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.call = call
        self.first, self.second = nn.Linear(4, 6), nn.Linear(4, 6)
        self.wide, self.head = nn.Linear(36, 2, bias=False), nn.Linear(6, 2)
        with torch.no_grad():
            for layer, gone in ((self.first, first), (self.second, second)):
                layer.weight[gone] = 0
                layer.bias[gone] = 0
            self.head.weight[:, unread] = 0

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.first(x), self.second(x)
        return self.head(first * second) + self.call(self, first, second)


LOW, HIGH, NONE = range(3), range(3, 6), range(0)
CROSSED: dict[str, tuple[Call, range, range, range]] = {
    "product": (lambda m, a, b: m.wide((a[:, :, None] * b[:, None]).flatten(1)), LOW, HIGH, NONE),
    "matmul": (lambda m, a, b: m.wide((a[:, :, None] @ b[:, None]).flatten(1)), LOW, HIGH, NONE),
    "sum": (lambda m, a, b: m.wide((a[:, :, None] + b[:, None]).flatten(1)), LOW, LOW, NONE),
    "maximum": (lambda m, a, b: m.wide(torch.maximum(a[:, :, None], b[:, None]).flatten(1)), LOW, LOW, NONE),
    "quotient": (lambda m, a, b: m.wide((a[:, :, None] / (1 + b[:, None] ** 2)).flatten(1)), LOW, LOW, NONE),
    "einsum": (lambda m, a, b: m.head(torch.einsum("bi,bk->bk", a, b)), LOW, HIGH, NONE),
    "reduced": (lambda m, a, b: m.head((a[:, :, None] - b[:, None]).tanh().sum(2)), NONE, NONE, LOW),
}


@pytest.mark.parametrize("name", CROSSED)
def test_an_axis_that_meets_itself_crosswise(name: str) -> None:
    unchanged(Pair(*CROSSED[name]), INPUT)


class Block(nn.Module):
    """A residual branch whose last layer reads nothing but zeros, and shifts."""

    def __init__(self, dead: range, ignored: range) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)
        with torch.no_grad():
            self.first.weight[dead] = 0
            self.first.bias[dead] = 0
            self.second.weight[:, ignored] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.second(self.first(x)))


@pytest.mark.parametrize(("dead", "ignored"), [(range(6), NONE), (NONE, range(6)), (LOW, HIGH)])
def test_a_layer_without_inputs_still_shifts(dead: range, ignored: range) -> None:
    program = graphopt.capture(Block(dead, ignored).eval(), (INPUT,))
    assert DeadParts(graphopt.DependencyGraph(program)).idle_sums() == {}
    unchanged(Block(dead, ignored), INPUT)


class Written(nn.Module):
    """A scale made of zeros, written to before it is used."""

    def __init__(self, write: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.write = write
        self.zeros, self.first, self.head = nn.Parameter(torch.zeros(6)), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.zeros.clone()
        self.write(scale, x)
        return self.head(self.first(x) * (scale * 2))


WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "view": lambda scale, x: scale.view(2, 3).add_(1),
    "slice": lambda scale, x: scale[2:4].copy_(x[0, :2]),
    "whole": lambda scale, x: scale.add_(x.sum()),
}


@pytest.mark.parametrize("name", WRITES)
def test_zeros_that_are_written_to_are_no_constants(name: str) -> None:
    unchanged(Written(WRITES[name]), INPUT)


class Idle(nn.Module):
    """Branches that add nothing, in several arrangements."""

    def __init__(self, call: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.call = call
        self.body = nn.Linear(4, 4)
        nn.init.zeros_(self.body.weight)
        nn.init.zeros_(self.body.bias)

    def forward(self, x: Tensor) -> object:
        return self.call(self.body, x)


def _twice(body: nn.Module, x: Tensor) -> object:
    hidden = torch.sin(x)
    return hidden + body(x), hidden + body(hidden)


ARRANGED: dict[str, tuple[Callable[[nn.Module, Tensor], object], int]] = {
    "input": (lambda body, x: x + body(x), 0),
    "view of the input": (lambda body, x: (x.view(-1, 2) + body(x).view(-1, 2)).view(-1), 0),
    "chain": (lambda body, x: (x + body(x)) + body(x), 1),
    "both outputs": (_twice, 1),
    "expanded": (lambda body, x: torch.sin(x)[:, None].expand(-1, 2, -1) + body(torch.stack([x, x], 1)), 0),
    "own memory": (lambda body, x: torch.sin(x) + body(x), 1),
}


def _memory(value: object) -> Iterator[int]:
    for leaf in value if isinstance(value, tuple) else (value,):
        if isinstance(leaf, Tensor):
            yield leaf.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", ARRANGED)
def test_outputs_keep_a_memory_of_their_own(name: str) -> None:
    """A caller may write to what a model gives, and must not write to what it was given."""
    call, left_out = ARRANGED[name]
    program = graphopt.capture(Idle(call).eval(), (INPUT,))
    assert len(DeadParts(graphopt.DependencyGraph(program)).idle_sums()) == left_out
    result = RemoveDead().run(program, PassContext()).program
    given = INPUT.clone()
    found = [given.untyped_storage().data_ptr(), *_memory(result.graph_module(given))]
    assert len(set(found)) == len(found)
