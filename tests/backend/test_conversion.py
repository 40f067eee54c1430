"""The Program of a graph that arrives is like a captured one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backend.models import image, masked, perceptron, row
from caching.tiny import images, skips, stack, tokens
from torch import Tensor, nn

import graphopt
from graphopt.backend.arrival import Arrival, Kind, read_arrival
from graphopt.backend.conversion import convert
from graphopt.regions.structure import module_of
from graphopt.values import is_symbolic


def arrivals(model: Any, *calls: tuple[Any, ...], dynamic: bool | None = None) -> list[tuple[Arrival, Any]]:
    """What arrives for some calls, with the program of each."""
    found = []

    def look(graph_module: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        arrival = read_arrival(graph_module)
        found.append((arrival, convert(arrival, example_inputs)))
        return graph_module.forward

    compiled = torch.compile(model, backend=look, dynamic=dynamic)
    with torch.no_grad():
        for args in calls:
            compiled(*args)
    return found


def test_names_and_kinds() -> None:
    [(arrival, program)] = arrivals(masked(), (image(),))
    assert sorted(place.name for place in arrival.places) == sorted([*program.parameters, "image"])
    assert set(program.parameters) == {*dict(masked().named_parameters())} | {"norm.running_mean", "norm.running_var"}
    assert [place.kind for place in arrival.places if place.name == "image"] == [Kind.TENSOR]
    assert [module_of([node]) for node in program.nodes() if node.op == "call_function"] == [
        "first",
        "norm",
        "",
        "second",
        "",
        "",
        "head",
    ]


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (masked, lambda batch: (image(batch),)),
        (perceptron, lambda batch: (row(batch),)),
        (stack, lambda batch: tokens(batch=batch)),
        (skips, lambda batch: images(batch=batch)),
    ],
)
def test_it_equals_a_captured_program(make: Any, inputs: Any) -> None:
    model = make()
    captured = graphopt.capture(model, inputs(2))
    _, (_, program) = arrivals(model, inputs(2), inputs(3))
    operators = [
        {node.name: node.target for node in one.nodes() if node.op == "call_function"} for one in (program, captured)
    ]
    assert operators[0] == operators[1]
    [output] = program(*program.args)
    assert torch.equal(output, captured(*inputs(3)))


def test_only_sizes_that_are_symbolic_there() -> None:
    class Sized(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).view(x.shape[0] * 2, -1)

    (_, fixed), (arrival, free) = arrivals(Sized(4, 6), (row(2),), (row(3),))
    assert not fixed.dynamic_batch
    assert free.dynamic_batch
    assert [place.kind for place in arrival.places].count(Kind.NUMBER) == 1
    [placeholder] = free.graph_module.graph.find_nodes(op="placeholder")
    assert [is_symbolic(size) for size in placeholder.meta["val"].shape] == [True, False]
    assert free(row(7))[0].shape == (14, 3)


def test_two_roots() -> None:
    one, other = perceptron(0), perceptron(1)
    [(_, program)] = arrivals(lambda x: one(x) + other(x), (row(),))
    assert len(program.parameters) == 8
    assert {name.partition(".")[0] for name in program.parameters} == {"one", "other"}


def test_the_weights_are_the_users() -> None:
    model = perceptron()
    [(_, program)] = arrivals(model, (row(),))
    for name, tensor in model.named_parameters():
        assert program.parameters[name].data_ptr() == tensor.data_ptr()
        assert program.parameters[name] is not tensor


def test_a_plain_attribute_is_an_input() -> None:
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)
            self.inner.table = torch.ones(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + self.inner.table

    [(arrival, program)] = arrivals(Holding(), (row(),))
    assert {place.name: place.kind for place in arrival.places} == {
        "inner.weight": Kind.STATIC,
        "inner.bias": Kind.STATIC,
        "x": Kind.TENSOR,
        "table": Kind.TENSOR,
    }
    assert set(program.parameters) == {"inner.weight", "inner.bias"}
