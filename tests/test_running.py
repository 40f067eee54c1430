"""Runs of a program that leave no trace."""

import pytest
import torch
from torch import fx
from traced_models import Flexible

from graphopt.program import Program
from graphopt.running import run_apart, values_apart
from graphopt.tracing import capture


def counting() -> Program:
    def forward(self, x):
        self.count.add_(1)
        return self.linear(x) * self.count + torch.rand(4)

    model = Flexible(forward)
    model.register_buffer("count", torch.zeros(()))
    return capture(model, (torch.randn(2, 4),))


def test_state_and_random_numbers_are_as_they_were() -> None:
    program, before = counting(), torch.get_rng_state()
    first, second = (run_apart(program, program.args, program.kwargs) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert float(program.parameters["count"]) == 0


def test_state_is_put_back_where_the_run_fails() -> None:
    program = counting()
    with pytest.raises(RuntimeError):
        run_apart(program, (torch.randn(2, 3),), {})
    assert float(program.parameters["count"]) == 0


def test_values_are_those_of_the_run_and_copies() -> None:
    program = counting()
    values = values_apart(program)
    output = program.graph_module.graph.output_node().all_input_nodes[0]
    assert torch.equal(values[output], run_apart(program, program.args, program.kwargs))
    (linear,) = (node for node in values if str(node.target) == "aten.linear.default")
    with torch.no_grad():
        assert torch.equal(values[linear], torch.nn.functional.linear(*(values[one] for one in linear.all_input_nodes)))
    assert float(program.parameters["count"]) == 0


def test_only_what_is_wanted_is_kept() -> None:
    program = counting()
    wanted: list[fx.Node] = program.graph_module.graph.find_nodes(
        op="call_function", target=torch.ops.aten.linear.default
    )
    assert [*values_apart(program, wanted)] == wanted
