"""torch.export with a symbolic batch where the model allows it, and with the example's batch where it does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.func import functional_call
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from graphopt.assembly import Attribute, named_attributes
from graphopt.batch import SPREAD
from graphopt.capture_failure import (
    Attempt,
    causes,
    explain_export,
    explain_raise,
    explain_transform,
    source_line,
    summary,
)
from graphopt.errors import CaptureError
from graphopt.example_inputs import ExampleInputs, carries, with_plain_signature
from graphopt.preparation import prepared, quiet
from graphopt.recording import NoGradients, TransformError
from graphopt.values import is_symbolic
from graphopt.wiring import node_line, walk


@dataclass(frozen=True)
class Export:
    """What torch.export made of a model.

    Attributes:
        program: The exported program.
        inputs: The example it was exported with, widened where its batch was one.
        dynamic_batch: Whether the batch axis is symbolic.
        notes: Remarks for the user.
    """

    program: ExportedProgram
    inputs: ExampleInputs
    dynamic_batch: bool
    notes: tuple[str, ...]

    def has_open_sizes(self) -> bool:
        """Tell whether the data decide a size of some value."""
        return any(free_unbacked_symbols(node.meta.get("val")) for node in self.program.graph.nodes)


def export_with_batch(model: nn.Module, inputs: ExampleInputs) -> Export | str:
    """Export a model in evaluation form with a symbolic batch; return the reason instead where that does not go."""
    with prepared(model):
        return _dynamic(model, inputs)


def export_at_example(model: nn.Module, inputs: ExampleInputs, why: str) -> Export:
    """Export a model in evaluation form at the batch of the example.

    Args:
        model: Left as it was.
        inputs: The example.
        why: Why the batch is not symbolic.

    Raises:
        CaptureError: The model raises on the inputs, or cannot be written as a graph.
    """
    with prepared(model):
        return _static(model, inputs, why)


def refuse_transforms(model: nn.Module, graph_module: fx.GraphModule) -> None:
    """Refuse a graph that switches a transform of torch.func on and off: its operators do not say what they compute.

    Raises:
        CaptureError: It does.
    """
    for node in walk(graph_module):
        if getattr(node.target, "__module__", "") == "torch._functorch.predispatch":
            where = node_line(node)
            raise CaptureError(
                f"{type(model).__name__} runs but cannot be captured as a graph: torch.export leaves a transform of "
                f"torch.func in it, such as vmap{f' ({where})' if where else ''}; write that for whole tensors, or put "
                "it into a module of its own, which capture(..., opaque=[its name]) keeps whole"
            )


def user_tensors(model: nn.Module, exported: ExportedProgram) -> dict[str, Attribute]:
    """Return the model's tensors under its names: parameters, buffers, constants."""
    found = {name: one for name, one in named_attributes(model).items() if isinstance(one.value, torch.Tensor)}
    for name, constant in exported.constants.items():
        if name not in found and isinstance(constant, torch.Tensor):
            found[name] = Attribute(constant, persistent=False)
    return found


def _static(model: nn.Module, inputs: ExampleInputs, why: str) -> Export:
    with Attempt() as attempt, quiet(), NoGradients():
        program = torch.export.export(model, inputs.args, dict(inputs.kwargs), strict=False)
        return Export(program, inputs, False, (f"static batch: {why}",))
    if any(isinstance(cause, TransformError) for cause in causes(attempt.failed())):
        raise explain_transform(model, source_line(attempt.failed())) from attempt.failure
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with Attempt() as eager, torch.no_grad():
        functional_call(model, buffers, inputs.args, dict(inputs.kwargs))
    if eager.failure is not None:
        raise explain_raise(model, eager.failure) from eager.failure
    raise explain_export(model, attempt.failed()) from attempt.failure


def _dynamic(model: nn.Module, inputs: ExampleInputs) -> Export | str:
    """Return the export with a symbolic batch, or the reason why there is none."""
    size = inputs.batch_size()
    if size is None:
        return "no input is a tensor with dimensions"
    wide = inputs.widened(1) if size == 1 else inputs
    rows = max(size, 2)
    batched = [place for place, leaf in enumerate(wide.leaves()) if carries(leaf, rows)]
    program = _export_batched(model, wide, batched)
    if isinstance(program, str):
        return program
    fixed = _fixed_inputs(program, batched)
    largest = max(batched, key=lambda place: wide.leaves()[place].numel())
    if largest in fixed:
        return f"the model fixes the first size of input {fixed[largest]!r} to {rows}"
    if fixed:
        program = _export_batched(model, wide, [place for place in batched if place not in fixed])
    if isinstance(program, str):
        return program
    branch = _branch_on_batch(program)
    if branch is not None:
        return branch
    return Export(program, wide, True, tuple(f"input {name!r} keeps its {rows} rows" for name in fixed.values()))


def _export_batched(model: nn.Module, inputs: ExampleInputs, batched: list[int]) -> ExportedProgram | str:
    """Export with a symbolic first size of those leaves; return the reason instead where it fails."""
    shapes: Any = ShapesCollection()
    inputs = inputs.map_tensors(torch.Tensor.detach)  # torch.export leaves marks on tensors when it fails
    leaves = inputs.leaves()
    for place in batched:
        shapes[leaves[place]] = {0: Dim.AUTO}
    with Attempt() as attempt, quiet(), NoGradients():
        stand_in = with_plain_signature(model, inputs)
        return torch.export.export(stand_in, inputs.args, dict(inputs.kwargs), strict=False, dynamic_shapes=shapes)
    return summary(attempt.failed())


def _branch_on_batch(program: ExportedProgram) -> str | None:
    """Return why the code asked something of its sizes that does not hold at a larger batch; None where all does."""
    sizes = [size for node in program.graph.find_nodes(op="placeholder") for size in _symbolic_sizes(node)]
    wider = {size.node.expr: SPREAD * size.node.hint for size in sizes if size.node.expr.is_Symbol}
    for guard in sizes[0].node.shape_env.guards if sizes else ():
        if str(guard.expr.xreplace(wider)) == "False":
            rows = sizes[0].node.hint
            return f"the model's code goes another way at batch {SPREAD * rows} than at {rows}"
    return None


def _symbolic_sizes(node: fx.Node) -> list[torch.SymInt]:
    """Return the sizes of a node's value that are symbols."""
    value = node.meta.get("val")
    sizes: Sequence[Any] = value.shape if isinstance(value, torch.Tensor) else ()
    return [size for size in sizes if isinstance(size, torch.SymInt)]


def _fixed_inputs(program: ExportedProgram, batched: list[int]) -> dict[int, str]:
    """Return those of the leaves whose first size did not stay symbolic, with their names."""
    names = [str(name) for name in program.graph_signature.user_inputs]
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return {place: names[place] for place in batched if not is_symbolic(values[names[place]].shape[0])}
