"""The trunk of a program: its largest stack of blocks."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from graphopt.arguments import packet_of
from graphopt.cost import integer_shape
from graphopt.errors import PreconditionError, SpecError
from graphopt.pass_manager import Pass
from graphopt.program import Program
from graphopt.regions import Stack, find_regions, input_classes
from graphopt.values import value_of


def find_trunk(pass_: Pass, program: Program, sample: str | None) -> Stack:
    """The stack of blocks with the most multiply-accumulates.

    Raises:
        PreconditionError: the program has no blocks one behind the other.
    """
    stacks = find_regions(program, sample=sample).stacks
    if not stacks:
        raise PreconditionError(
            f"{pass_.name}: found no stack of blocks in {program.source.class_name}; deepcache caches U-Nets, and "
            "insert-cache cuts anywhere"
        )
    return stacks[0]


def context_inputs(program: Program, sample: str) -> tuple[str, ...]:
    """Inputs that steer the sample otherwise than by being added to it, such as text, timesteps and labels.

    A residual that something else computes for the sample, as a ControlNet does, meets it in additions of its own shape
    only: to ignore it would lose what it says about this step. One number, or one a row of the batch, is no residual.
    """
    classes = input_classes(program)
    added: dict[str, bool] = {}
    for node, inputs in classes.items():
        operands = [operand for operand in node.all_input_nodes if sample not in classes[operand]]
        if sample not in inputs or len(operands) == len(node.all_input_nodes):
            continue
        for name in frozenset[str]().union(*(classes[operand] for operand in operands)):
            added[name] = added.get(name, True) and _adds_alike(node)
    places = program.graph_module.graph.find_nodes(op="placeholder")
    residuals = {node.name for node in places if added.get(node.name, False) and getattr(value_of(node), "ndim", 0) > 1}
    return tuple(str(node.name) for node in places if node.name != sample and node.name not in residuals)


def timestep_input(program: Program, sample: str, name: str | None) -> str | None:
    """The input that tells the timestep: the one named, or the first beside the sample that is one number a row.

    Args:
        program: the program.
        sample: name of the input that changes from step to step.
        name: the input that the user named, None where it is to be found.

    Raises:
        SpecError: there is no such input.
    """
    places = {str(node.name): value_of(node) for node in program.graph_module.graph.find_nodes(op="placeholder")}
    if name is not None and name not in places:
        raise SpecError(f"found no input {name!r}, wanted one of {', '.join(places)}", option="timestep")
    numbers = (
        place for place, value in places.items() if place != sample and isinstance(value, Tensor) and value.ndim <= 1
    )
    return name or next(numbers, None)


def _adds_alike(node: fx.Node) -> bool:
    """Whether a node adds two tensors of one shape."""
    shapes = {integer_shape(value_of(operand)) for operand in node.all_input_nodes}
    return packet_of(node) in (torch.ops.aten.add, torch.ops.aten.add_) and len(shapes) == 1
