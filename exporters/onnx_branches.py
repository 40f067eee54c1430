"""One ONNX graph for a full and a cached program: the two branches of an If over the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from graphopt.errors import ExportError
from graphopt.exporters.onnx_steps import IN, OUT, StepModel
from graphopt.schedule import CACHED, FULL, Schedule

if TYPE_CHECKING:
    import onnx_ir as ir

USE_CACHE = "use_cache"
"""Name of the input that chooses: a lone bool, true for the cached program."""


def require_branches(schedule: Schedule) -> None:
    """Check that a schedule has a full and a cached program and no more.

    Raises:
        ExportError: It has others.
    """
    if set(schedule.programs) != {FULL, CACHED} or any(slot.order for slot in schedule.slots.values()):
        raise ExportError(
            f"a single file has a branch for full and one for cached steps, and the schedule has the programs "
            f"{', '.join(schedule.programs)}; export into a folder, where each has a file"
        )


def joined(schedule: Schedule, steps: Mapping[str, StepModel]) -> ir.Model:
    """Join a full and a cached program; what both had is used up.

    A cached step hands on the slots that it does not fill, so that the outputs can always be the next step's inputs.

    Args:
        schedule: Has these two programs.
        steps: Their models, whose initializers of the same name are the same.
    """
    import onnx_ir

    full, cached = steps[FULL].built.model, steps[CACHED].built.model
    inputs: dict[str, ir.Value] = {}
    weights: dict[str, ir.Value] = {}
    for model in (full, cached):
        _hoist(model, inputs, weights)
    for value in full.graph.outputs:
        if str(value.name).startswith(OUT):
            name = f"{IN}{str(value.name).removeprefix(OUT)}"
            inputs.setdefault(name, onnx_ir.Value(name=name, shape=value.shape, type=value.type))
    ends = {str(value.name): (value.shape, value.type) for value in full.graph.outputs}
    condition = onnx_ir.Value(name=USE_CACHE, shape=onnx_ir.Shape([]), type=onnx_ir.TensorType(onnx_ir.DataType.BOOL))
    branches = {name: _branch(steps[name].built.model, name, tuple(ends), inputs) for name in (FULL, CACHED)}
    node = onnx_ir.node(
        "If",
        [condition],
        attributes={"then_branch": branches[CACHED], "else_branch": branches[FULL]},
        num_outputs=len(ends),
    )
    for value, (name, (shape, kind)) in zip(node.outputs, ends.items(), strict=True):
        value.name, value.shape, value.type = name, shape, kind
    used = [value for value in inputs.values() if value.uses()]
    graph = onnx_ir.Graph(
        [condition, *used],
        node.outputs,
        nodes=[node],
        initializers=list(weights.values()),
        opset_imports=full.graph.opset_imports | cached.graph.opset_imports,
        name="full_and_cached",
    )
    return onnx_ir.Model(graph, ir_version=full.ir_version, producer_name=full.producer_name)


def _hoist(model: ir.Model, inputs: dict[str, ir.Value], weights: dict[str, ir.Value]) -> None:
    """Let a graph read inputs and weights from outside; those that are there already are shared by name."""
    for value in list(model.graph.inputs):
        model.graph.inputs.remove(value)
        _share(value, inputs)
    for name in list(model.graph.initializers):
        _share(model.graph.initializers.pop(name), weights)


def _share(value: ir.Value, known: dict[str, ir.Value]) -> None:
    present = known.setdefault(str(value.name), value)
    if present is not value:
        value.replace_all_uses_with(present)


def _branch(model: ir.Model, name: str, ends: tuple[str, ...], inputs: Mapping[str, ir.Value]) -> ir.Graph:
    """The body of a branch, its values named after it: they may not be called like values outside."""
    import onnx_ir

    outputs = {str(value.name): value for value in model.graph.outputs}
    nodes = list(model.graph)
    model.graph.outputs.clear()
    model.graph.remove(nodes)
    for end in ends:
        if end not in outputs:
            source = inputs[f"{IN}{end.removeprefix(OUT)}"]
            handed = onnx_ir.node("Identity", [source])
            outputs[end] = handed.outputs[0]
            outputs[end].name, outputs[end].shape, outputs[end].type = end, source.shape, source.type
            nodes.append(handed)
    graph = onnx_ir.Graph([], [outputs[end] for end in ends], nodes=nodes, name=name)
    for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
        for value in node.outputs:
            value.name = f"{name}/{value.name}"
    return graph
