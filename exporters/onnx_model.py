"""A Program becomes an ONNX model in memory: exported, optimised, named after the user's model, free of paths."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from graphopt.errors import ExportError
from graphopt.exporters.onnx_graph import exportable
from graphopt.exporters.onnx_names import name_axes, name_inputs, name_outputs, name_transposed, output_names
from graphopt.exporters.onnx_scalars import keep_small_numbers
from graphopt.program import Program
from graphopt.running import run_apart

if TYPE_CHECKING:
    import onnx_ir as ir

_FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output of an ONNX model.

    Attributes:
        name: Its name in the file.
        position: Its place among the leaves of the user's nested inputs or outputs.
        batched: Whether dimension 0 is the dynamic batch; False on outputs.
    """

    name: str
    position: int
    batched: bool = False


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """An ONNX model in memory.

    Attributes:
        model: The model, of `onnx_ir`; it shares the program's weights.
        inputs: Its inputs, in order.
        outputs: Its outputs, in order.
        smallest_batch: Smallest batch size that torch.export vouches for; 0 where the batch is static.
        largest_batch: Largest such batch size; None where there is no limit.
        notes: What the file does not do as the program does.
    """

    model: "ir.Model"
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    smallest_batch: int
    largest_batch: int | None
    notes: tuple[str, ...]


def build_onnx(program: Program, opset: int, dynamic: bool, properties: Mapping[str, str]) -> OnnxModel:
    """Turn a program into an ONNX model.

    Args:
        program: With its weights at hand.
        opset: The operator set asked for.
        dynamic: Whether the batch shall be dynamic where the program's is.
        properties: Goes into the model's ``metadata_props``.

    Raises:
        ExportError: torch.export or torch.onnx cannot convert the program.
    """
    import onnx_ir

    result = run_apart(program, program.args, program.kwargs)
    leaves = pytree.tree_leaves(result)
    kept = [position for position, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    if not kept:
        raise ExportError("the program returns no tensor, and ONNX knows nothing else; return one from the model")
    exported = _exported(exportable(program.graph_module, kept), program, dynamic)
    model = _converted(exported, opset)
    ports, notes = _input_ports(exported)
    names = [output_names(result)[position] for position in kept]
    name_inputs(model, [port.name for port in ports])
    names = name_outputs(model, names)
    symbols = _batch_symbols(exported)
    name_axes(model, dict.fromkeys(map(str, symbols), "batch"))
    _strip(model)
    model.metadata_props.update(properties)
    onnx_ir.passes.common.TopologicalSortPass()(model)
    smallest, largest = _batch_range(exported, symbols)
    dropped = len(leaves) - len(kept)
    return OnnxModel(
        model=model,
        inputs=tuple(ports),
        outputs=tuple(Port(name=name, position=position) for name, position in zip(names, kept, strict=True)),
        smallest_batch=smallest,
        largest_batch=largest,
        notes=(*notes, *([f"{dropped} outputs are no tensors and are not in the file"] if dropped else [])),
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and log lines of the exporters off the user's screen."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _exported(graph_module: fx.GraphModule, program: Program, dynamic: bool) -> ExportedProgram:
    leaves = _separate_inputs(program)
    args, kwargs = pytree.tree_unflatten(leaves, pytree.tree_structure((program.args, dict(program.kwargs))))
    shapes = ShapesCollection()
    if dynamic:
        for leaf, axes in _symbolic_axes(program, leaves):
            shapes[leaf] = dict.fromkeys(axes, Dim.AUTO)
    try:
        with quiet():
            axes = shapes.dynamic_shapes(graph_module, args, kwargs)
            return torch.export.export(graph_module, args, kwargs, dynamic_shapes=axes, strict=False)
    except _FAILURES as error:
        less = "dynamic=False asks less of it" if dynamic else "its data decide sizes that ONNX would need to know"
        raise ExportError(f"torch.export cannot export the program again: {_root(error)}; {less}") from error


def _separate_inputs(program: Program) -> list[Any]:
    """Return the flat example inputs, each tensor an object of its own that is no view of another one.

    torch.export takes one given twice for one, and asks for the base of a view again when there is none any more.
    """
    seen: set[int] = set()
    leaves = []
    for leaf in pytree.tree_leaves((program.args, dict(program.kwargs))):
        shared = isinstance(leaf, torch.Tensor) and (id(leaf) in seen or leaf._base is not None)
        seen.add(id(leaf))
        leaves.append(leaf.clone() if shared else leaf)
    return leaves


def _symbolic_axes(program: Program, leaves: list[Any]) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Yield every example tensor that has symbolic dimensions in the program, with these dimensions."""
    placeholders = program.graph_module.graph.find_nodes(op="placeholder")
    for leaf, node in zip(leaves, placeholders, strict=True):
        sizes = getattr(node.meta.get("val"), "shape", ())
        axes = [axis for axis, size in enumerate(sizes) if isinstance(size, torch.SymInt)]
        if axes:
            yield leaf, axes


def _converted(exported: ExportedProgram, opset: int) -> "ir.Model":
    try:
        with quiet(), torch.no_grad():
            converted = torch.onnx.export(exported, opset_version=opset, dynamo=True, optimize=False, verbose=False)
            if converted is None:
                raise ExportError("torch.onnx.export returned nothing")
            name_transposed(converted.model)
            keep_small_numbers(converted.model)
            converted.optimize()
            return converted.model
    except _FAILURES as error:
        raise ExportError(
            f"torch.onnx cannot convert the program at opset {opset}: {_root(error)}; "
            "rewrite that operator in the model in terms that ONNX has"
        ) from error


def _root(error: BaseException) -> str:
    """Return the first line of the error at the bottom of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _input_ports(exported: ExportedProgram) -> tuple[list[Port], list[str]]:
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"}
    specs = [spec for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    ports, notes = [], []
    for position, spec in enumerate(specs):
        if isinstance(spec.arg, TensorArgument):
            ports.append(Port(name=spec.arg.name, position=position, batched=_is_batched(values[spec.arg.name])))
        elif getattr(spec.arg, "value", None) is not None:
            notes.append(f"the input {spec.arg.name!r} is no tensor; it is fixed at {spec.arg.value!r}")
    return ports, notes


def _is_batched(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and isinstance(value.shape[0], torch.SymInt)


def _batch_symbols(exported: ExportedProgram) -> list[Any]:
    """Return the symbols that dimension 0 of the inputs is made of."""
    symbols: dict[Any, None] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder" and _is_batched(node.meta.get("val")):
            symbols.update(dict.fromkeys(node.meta["val"].shape[0].node.expr.free_symbols))
    return list(symbols)


def _batch_range(exported: ExportedProgram, symbols: list[Any]) -> tuple[int, int | None]:
    ranges = [exported.range_constraints[symbol] for symbol in symbols if symbol in exported.range_constraints]
    smallest = max((int(found.lower) for found in ranges), default=0)
    limits = [int(found.upper) for found in ranges if found.upper < 2**31]
    return smallest, min(limits, default=None)


def _strip(model: "ir.Model") -> None:
    """Remove stack traces and other notes of the exporter, which hold paths of the machine."""
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)
    model.doc_string = None
    model.metadata_props.clear()
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
