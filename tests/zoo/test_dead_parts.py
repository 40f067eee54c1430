"""Real architectures with zeros anywhere: what is taken for dead changes no output, and masked units are found."""

import numpy as np
import pytest
import torch
from zoo.catalogue import LIBRARIES, Entry, entries
from zoo.other_packages import NotInstalledError

import graphopt
from graphopt.dependency.dead import DeadParts
from graphopt.proof.check import inputs_of, outputs_of
from graphopt.proof.masking import mask_tensors
from graphopt.proof.unchanged import check_unchanged
from graphopt.rewrite.slicing import slice_axes

EVERY = {"peer_failures": 2, "torchvision": 4, "timm": 10, "transformers": 4, "diffusers": 4, "others": 9}
"""One in so many entries of each library."""

WRITES_IN_PLACE = {"rwkv"}
"""Nothing is said of values that are written to later; in these models that is all of them."""

CHOSEN = [
    pytest.param(entry, id=f"{library}-{entry.name}")
    for library in LIBRARIES
    for entry in entries(library)[:: EVERY[library]]
]


def is_finite(program: graphopt.Program) -> bool:
    outputs = outputs_of(program, inputs_of(program))
    return all(bool(out.isfinite().all()) for out in outputs if out.is_floating_point())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the libraries warn of is theirs
@pytest.mark.parametrize("entry", CHOSEN)
@torch.no_grad()
def test_dead_parts(entry: Entry) -> None:
    try:
        model, args, kwargs = entry.build()
    except NotInstalledError as missing:
        pytest.skip(str(missing))
    program = graphopt.capture(model, args, kwargs)
    graph = graphopt.DependencyGraph(program)
    whole = {name: tensor.detach().clone() for name, tensor in program.parameters.items()}
    random = np.random.default_rng(0)
    for tensor in program.parameters.values():
        if isinstance(tensor, torch.nn.Parameter) and tensor.dim() and random.random() < 0.5:
            dim = int(random.integers(tensor.dim()))
            tensor.index_fill_(dim, torch.from_numpy(np.flatnonzero(random.random(tensor.shape[dim]) < 0.5)), 0)
    if is_finite(program):
        check_unchanged(program, slice_axes(graph, DeadParts(graph).kept()))
    groups = [group for group in graph.groups if not group.marks]
    kept = {group.id: tuple(range(group.size // 2, group.size)) for group in groups if group.size > 1}
    masked = mask_tensors(graph, graph.masks(kept), whole)
    for name, tensor in program.parameters.items():
        tensor.copy_(masked[name])
    found = DeadParts(graph).kept()
    if entry.name not in WRITES_IN_PLACE:
        assert [name for name in kept if len(found.get(name, range(10**9))) > len(kept[name])] == []
    if is_finite(program):
        check_unchanged(program, slice_axes(graph, found))
