"""Random and regular placements of programs, and what their segments compute one after the other."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.rewrite.placing.placed import Placed, Roles, is_tensor
from graphopt.rewrite.placing.segments import Cutting, cut
from graphopt.rewrite.placing.staging import completed
from graphopt.stages import SYNC


def values_of(program: Program) -> list[str]:
    """Names of the nodes that need a device, in their order."""
    return [node.name for node in Roles(program.graph_module).values if node.op != "placeholder"]


def in_a_row(program: Program, devices: int) -> list[list[str]]:
    """Equal stretches of the program, one a device."""
    names = values_of(program)
    length = max(1, -(-len(names) // devices))
    return [[*completed_part] for completed_part in completed(program, _stretches(names, length, devices))]


def _stretches(names: Sequence[str], length: int, devices: int) -> list[Sequence[str]]:
    return [names[device * length : (device + 1) * length] for device in range(devices)]


def at_random(program: Program, devices: int, seed: int, *, repeated: float = 0.2) -> list[list[str]]:
    """Any map of nodes to devices; some nodes are on several, and results are picked where they are."""
    source = random.Random(seed)
    assigned: list[list[str]] = [[] for _ in range(devices)]
    owners: dict[str, set[int]] = {}
    roles = Roles(program.graph_module)
    for node in roles.values:
        if node.op == "placeholder":
            continue
        picked = [operand.name for operand in roles.operands(node) if not is_tensor(operand)]
        found = {source.randrange(devices)}
        if source.random() < repeated:
            found.add(source.randrange(devices))
        owners[node.name] = owners[picked[0]] if picked else found
        for device in owners[node.name]:
            assigned[device].append(node.name)
    return assigned


def leaves_of(output: Any) -> list[Tensor]:
    """Tensors of an output."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def run_segments(
    placed: Placed, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> tuple[Cutting, list[Tensor]]:
    """Run a step without delays segment by segment; every device sees its own values and what edges bring it.

    Messages bring nothing that was not sent before, and values that no edge brings are missing.
    """
    cutting = cut({SYNC: placed})
    phase = cutting.phases[SYNC]
    places = placed.program.graph_module.graph.find_nodes(op="placeholder")
    leaves = ExampleInputs(args, dict(kwargs or {})).leaves()
    known: dict[tuple[str, int], Any] = {
        (node.name, placed.sampler): leaf for node, leaf in zip(places, leaves, strict=True)
    }

    def send(name: str, source: int) -> None:
        for edge in phase.edges:
            if (edge.value, edge.source) == (name, source):
                known[name, edge.target] = known[name, source].clone()

    for name, _ in list(known):
        send(name, placed.sampler)
    for segment in phase.segments:
        with torch.no_grad():
            found = cutting.modules[SYNC, segment.id](*(known[name, segment.device] for name in segment.inputs))
        for name, value in zip(segment.outputs, found, strict=True):
            known[name, segment.device] = value
            send(name, segment.device)
    return cutting, [known[name, placed.sampler] for name in phase.outputs]


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Tell whether tensors are the same bits."""
    return len(first) == len(second) and all(map(torch.equal, first, second))
