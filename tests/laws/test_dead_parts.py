"""On random models with zeros anywhere: what is taken for dead changes no output, and masked units are all found."""

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.checks import captured, some_kept
from laws.shapes import Net
from laws.specs import nets

from graphopt.dependency.dead import DeadParts
from graphopt.dependency.graph import DependencyGraph
from graphopt.proof.check import inputs_of, outputs_of
from graphopt.proof.masking import mask_tensors
from graphopt.proof.unchanged import check_unchanged
from graphopt.rewrite.slicing import slice_axes

PARTS, MODELS = 2, 26
PHASES = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
relaxed = settings(deadline=None, max_examples=MODELS, suppress_health_check=list(HealthCheck), phases=PHASES)


def clear_rows(graph: DependencyGraph, random: np.random.Generator) -> None:
    for tensor in graph.tensors.values():
        if tensor.is_floating_point() and tensor.dim() and random.random() < 0.5:
            dim = int(random.integers(tensor.dim()))
            chosen = torch.from_numpy(np.flatnonzero(random.random(tensor.shape[dim]) < 0.5))
            with torch.no_grad():
                tensor.index_fill_(dim, chosen, 0)


def clear_units(graph: DependencyGraph, random: np.random.Generator) -> dict[str, tuple[int, ...]]:
    groups = [group for group in graph.groups if not group.marks]
    kept = {group.id: some_kept(group.size, random) for group in groups}
    masked = mask_tensors(graph, graph.masks(kept), graph.tensors)
    with torch.no_grad():
        for name, tensor in graph.tensors.items():
            tensor.copy_(masked[name])
    return kept


@pytest.mark.parametrize("part", range(PARTS))
def test_dead_parts_of_random_models(part: int) -> None:
    removed = []

    @hypothesis.seed(part)
    @relaxed
    @given(net=nets(), seed=st.integers(0, 1000))
    def run(net: Net, seed: int) -> None:
        random = np.random.default_rng(seed)
        graph = DependencyGraph(captured(net))
        masked = clear_units(graph, random) if seed % 2 else {}
        clear_rows(graph, random)
        found = DeadParts(graph).kept()
        assert all(name in found and len(found[name]) <= len(kept) for name, kept in masked.items())
        if all(out.isfinite().all() for out in outputs_of(graph.program, inputs_of(graph.program))):
            check_unchanged(graph.program, slice_axes(graph, found))
            removed.append(len(found))

    run()
    assert sum(removed) > MODELS
