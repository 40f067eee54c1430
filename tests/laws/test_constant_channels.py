"""On random models with zeros anywhere: constants are folded into biases, and no output changes for any input."""

from collections.abc import Mapping

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.checks import captured
from laws.shapes import Net
from laws.specs import nets
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.dependency.dead import DeadParts
from graphopt.dependency.graph import DependencyGraph
from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.proof.check import outputs_of
from graphopt.proof.unchanged import check_unchanged
from graphopt.rewrite.constant_channels import ConstantChannels
from graphopt.rewrite.folding import fold
from graphopt.rewrite.slicing import slice_axes

MODELS = 6
PHASES = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
relaxed = settings(deadline=None, max_examples=MODELS, suppress_health_check=list(HealthCheck), phases=PHASES)


def other_inputs(program: Program) -> ExampleInputs:
    """Inputs that the constants were not read off."""
    args, kwargs = pytree.tree_map_only(Tensor, _moved, (program.args, dict(program.kwargs)))
    return ExampleInputs(args, kwargs)


def _moved(tensor: Tensor) -> Tensor:
    return 0.3 - 0.8 * tensor if tensor.is_floating_point() else tensor


def silence(graph: DependencyGraph, random: np.random.Generator) -> None:
    """Let some weights compute nothing for some of their outputs, whose biases stay."""
    for tensor in graph.tensors.values():
        if tensor.is_floating_point() and tensor.dim() > 1 and random.random() < 0.7:
            chosen = torch.from_numpy(np.flatnonzero(random.random(tensor.shape[0]) < 0.6))
            with torch.no_grad():
                tensor.index_fill_(0, chosen, 0)


def folded(program: Program) -> tuple[Program, Mapping[str, tuple[int, ...]], int]:
    """The program without its constant channels, what it keeps, and how many biases changed."""
    graph = DependencyGraph(program)
    channels = ConstantChannels(graph, DeadParts(graph))
    kept = channels.kept()
    folds = channels.folds(kept)
    base = fold(program, folds) if folds else program
    return slice_axes(DependencyGraph(base), kept), kept, len(folds)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 8))])
def test_constant_channels_of_random_models(part: int) -> None:
    found = []

    @hypothesis.seed(part)
    @relaxed
    @given(net=nets(), seed=st.integers(0, 1000))
    def run(net: Net, seed: int) -> None:
        program = captured(net)
        silence(DependencyGraph(program), np.random.default_rng(seed))
        rewritten, _, folds = folded(program)
        inputs = other_inputs(program)
        if all(out.isfinite().all() for out in outputs_of(program, inputs)):
            check_unchanged(program, rewritten, inputs)
            found.append(folds)

    with torch.no_grad():
        run()
    assert sum(found) > MODELS
