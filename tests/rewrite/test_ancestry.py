"""The captured program behind a rewritten one, with the weights of today."""

import torch
from torch import nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.program import Program
from graphopt.rewrite.ancestry import origin_of
from graphopt.rewrite.slicing import slice_axes
from graphopt.tracing import capture


def pruned() -> tuple[Program, Program]:
    torch.manual_seed(0)
    program = capture(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), (torch.randn(3, 4),))
    graph = DependencyGraph(program)
    return program, slice_axes(graph, {graph.groups[0].id: [1, 2, 5]})


def test_a_captured_program_is_its_own_origin() -> None:
    program, _ = pruned()
    assert origin_of(program) is program


def test_without_training_the_origin_is_the_captured_program() -> None:
    program, rewritten = pruned()
    assert origin_of(rewritten) is program


def test_trained_weights_stand_in_the_kept_places() -> None:
    program, rewritten = pruned()
    with torch.no_grad():
        dict(rewritten.module().named_parameters())["0.weight"].add_(1)
    origin = origin_of(rewritten)
    before, after = program.parameters["0.weight"], origin.parameters["0.weight"]
    assert torch.equal(after[[1, 2, 5]], before[[1, 2, 5]] + 1)
    assert torch.equal(after[[0, 3, 4]], before[[0, 3, 4]])
    assert isinstance(after, nn.Parameter)
    assert origin.parameters["2.weight"] is program.parameters["2.weight"]
    assert origin.source == program.source
