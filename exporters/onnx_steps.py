"""One program of a schedule as an ONNX model: inputs and outputs named after the model and the slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.exporters.onnx_model import OnnxModel, Port, build_onnx
from graphopt.exporters.onnx_names import name_inputs, name_outputs, output_names
from graphopt.program import Program
from graphopt.schedule import DISTANCE, ELAPSED, UPDATES, Schedule

SCALARS = (ELAPSED, UPDATES, DISTANCE)
"""Numbers that go in and out beside what the slots hold; they keep their names."""


IN, OUT = "cache_in.", "cache_out."
"""How names of what a slot keeps begin, where it goes in and where it comes out."""


@dataclass(frozen=True, kw_only=True)
class StepModel:
    """A program of a schedule as an ONNX model in memory.

    Attributes:
        built: The model; of the program's inputs it has those that it reads.
        program: What it was made of.
        unread: Inputs of the program, by their names in the other files, that this one does not have.
        returned: What the program returned on its example inputs, without what it filled.
    """

    built: OnnxModel
    program: Program
    unread: tuple[str, ...]
    returned: Any


def input_name(tensor: str) -> str:
    """Name in the files of an extra input of a program."""
    return tensor if tensor in SCALARS else f"{IN}{tensor}"


def output_name(tensor: str) -> str:
    """Name in the files of what a program fills."""
    return tensor if tensor in SCALARS else f"{OUT}{tensor}"


def model_kwargs(program: Program, schedule: Schedule, name: str) -> dict[str, Any]:
    """The keyword inputs of a program that are the model's, without those that the schedule adds."""
    extras = schedule.inputs(name)
    return {key: value for key, value in program.kwargs.items() if key not in extras}


def build_step(
    program: Program, schedule: Schedule, name: str, opset: int, dynamic: bool, properties: Mapping[str, str]
) -> StepModel:
    """Turn a program of a schedule into an ONNX model.

    Args:
        program: The program, called as `Schedule` tells.
        schedule: What it belongs to.
        name: Its id.
        opset: The operator set asked for.
        dynamic: Whether the batch shall be dynamic where the program's is.
        properties: Goes into the model's ``metadata_props``, beside the id.

    Raises:
        ExportError: torch.export or torch.onnx cannot convert the program.
    """
    with torch.no_grad():
        returned, _ = program(*program.args, **program.kwargs)
    built = build_onnx(program, opset, dynamic, {**properties, "graphopt.program": name})
    model = built.model
    inputs = [_renamed(port, schedule.inputs(name)) for port in built.inputs]
    name_inputs(model, [port.name for port in inputs])
    names = [*output_names(returned), *(output_name(tensor) for tensor in schedule.outputs(name))]
    given = name_outputs(model, [names[port.position] for port in built.outputs])
    outputs = [replace(port, name=found) for port, found in zip(built.outputs, given, strict=True)]
    unread = [value for value in model.graph.inputs if not value.uses()]
    for value in unread:
        model.graph.inputs.remove(value)
    left = {str(value.name) for value in model.graph.inputs}
    kept = tuple(port for port in inputs if port.name in left)
    return StepModel(
        built=replace(built, inputs=kept, outputs=tuple(outputs)),
        program=program,
        unread=tuple(str(value.name) for value in unread),
        returned=returned,
    )


def own_outputs(step: StepModel) -> tuple[Port, ...]:
    """The outputs of a model that are the user's model's, without what fills slots."""
    count = len(pytree.tree_leaves(step.returned))
    return tuple(port for port in step.built.outputs if port.position < count)


def _renamed(port: Port, extras: tuple[str, ...]) -> Port:
    return replace(port, name=input_name(port.name)) if port.name in extras else port
