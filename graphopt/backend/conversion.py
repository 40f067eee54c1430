"""From a graph of torch.compile to a Program: ATen operators, parameters under the user's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from graphopt.assembly import Attribute
from graphopt.backend.arrival import Arrival, Kind, Place, module_path
from graphopt.backend.folding import fold_returned
from graphopt.errors import CaptureError
from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.tracing import adopt
from graphopt.values import fake_mode_of, hint, is_symbolic

GRADIENT_SWITCHES = (torch._C._set_grad_enabled, torch.set_grad_enabled)
AUTOCAST_SWITCHES = (torch.amp.autocast_mode._enter_autocast, torch.amp.autocast_mode._exit_autocast)


def convert(arrival: Arrival, args: Sequence[Any], *, fold: bool = True) -> Program:
    """Trace a graph of torch.compile down to ATen operators and make it a Program.

    The trace runs on the fake tensors that torch.compile made, so the sizes that are symbolic there are symbolic here,
    under the same symbols: what is assumed of them becomes a guard of torch.compile. A size that came as a placeholder
    is computed from a tensor that has it; any other number stays an input.

    Args:
        arrival: The graph; no autograd goes through it.
        args: One argument for each placeholder.
        fold: Whether what is computed from parameters and returned is read as it is now.

    Raises:
        CaptureError: The graph switches autocast, or holds a constant without numbers.
    """
    traced = _traced(arrival)
    graph = traced.graph
    places = dict(zip(graph.find_nodes(op="placeholder"), arrival.places, strict=True))
    _read_attributes(graph, places)
    _compute_sizes(graph, places)
    _rename_inputs(graph, places)
    folded = fold_returned(graph, arrival.pick(args, Kind.STATIC)) if fold else {}
    _set_convention(graph)
    for node in graph.nodes:
        _name_modules(arrival, node)
    given = dict(zip((place.name for place in arrival.places), args, strict=True))
    inputs = [_plain(given[str(node.target)]) for node in graph.find_nodes(op="placeholder")]
    symbolic = any(is_symbolic(size) for fake in arrival.fakes() if isinstance(fake, Tensor) for size in fake.shape)
    return adopt(
        traced,
        _attributes(traced, {**arrival.pick(args, Kind.STATIC), **folded}),
        ExampleInputs(tuple(inputs), {}),
        type(arrival.graph_module).__name__,
        dynamic_batch=symbolic,
    )


def _traced(arrival: Arrival) -> fx.GraphModule:
    """The graph in ATen operators, as they are before autocast and autograd see them."""
    source = _without_switches(arrival)
    fakes = arrival.fakes()

    def run(*values: Any) -> Any:
        with torch.fx.traceback.preserve_node_meta():
            return fx.Interpreter(source).run(*values)

    with torch.no_grad(), enable_python_dispatcher(), fake_mode_of(fakes):
        traced: fx.GraphModule = make_fx(run, tracing_mode="real", pre_dispatch=True, _allow_non_fake_inputs=True)(
            *fakes
        )
    return traced


def _without_switches(arrival: Arrival) -> fx.GraphModule:
    """The graph without switches that change nothing: no output has gradients, and autocast goes off where it is off.

    Raises:
        CaptureError: One of autocast changes something.
    """
    copied = fx.GraphModule(arrival.graph_module, _copy_nodes(arrival.graph_module.graph))
    for node in reversed(list(copied.graph.nodes)):
        if node.target in (*GRADIENT_SWITCHES, *AUTOCAST_SWITCHES):
            _require_idle(node)
            copied.graph.erase_node(node)
    copied.recompile()
    return copied


def _require_idle(node: fx.Node) -> None:
    if node.target is not AUTOCAST_SWITCHES[0]:
        return
    device, _, enabled, *_ = node.args
    if enabled or torch.is_autocast_enabled(str(device)):
        raise CaptureError("the graph switches autocast inside; put autocast around the call of the model")


def _copy_nodes(graph: fx.Graph) -> fx.Graph:
    """Return a copy of a graph; nodes keep their names."""
    copied = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        nodes[node] = copied.node_copy(node, nodes.__getitem__)
    return copied


def _read_attributes(graph: fx.Graph, places: Mapping[fx.Node, Place]) -> None:
    """Let parameters and buffers be read as attributes instead of taken as inputs."""
    for node, place in places.items():
        if place.kind is not Kind.STATIC:
            continue
        with graph.inserting_before(node):
            read = graph.create_node("get_attr", place.name)
        read.meta = {"val": node.meta["val"]}
        node.replace_all_uses_with(read)
        graph.erase_node(node)


def _compute_sizes(graph: fx.Graph, places: Mapping[fx.Node, Place]) -> None:
    """Compute numbers that came as inputs from the tensors whose sizes they are; other numbers stay inputs."""
    for node, place in places.items():
        size = _size_of(node, places) if place.kind is Kind.NUMBER else None
        if size is None:
            continue
        with graph.inserting_after(graph.find_nodes(op="placeholder")[-1]):
            computed = graph.call_function(torch.ops.aten.sym_size.int, size)
        computed.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(computed)
        graph.erase_node(node)


def _size_of(number: fx.Node, places: Mapping[fx.Node, Place]) -> tuple[fx.Node, int] | None:
    """Return a tensor and its dimension whose size is a number, None where there is none."""
    wanted = number.meta["val"]
    for tensor in (node for node, place in places.items() if place.kind is Kind.TENSOR):
        for dim, size in enumerate(tensor.meta["val"].shape):
            if is_symbolic(size) and is_symbolic(wanted) and size.node.expr == wanted.node.expr:
                return tensor, dim
    return None


def _rename_inputs(graph: fx.Graph, places: Mapping[fx.Node, Place]) -> None:
    """Call the inputs what the user's code calls them."""
    for node in graph.find_nodes(op="placeholder"):
        node.target = places[node].name


def _plain(value: Any) -> Any:
    """An example as a call brings it: a symbolic number stands for what it was when the graph was traced."""
    return hint(value) if isinstance(value, torch.SymInt) else value


def _set_convention(graph: fx.Graph) -> None:
    """Give the graph the calling convention of a captured one: inputs by place, the output as it is nested."""
    names = [str(node.target) for node in graph.find_nodes(op="placeholder")]
    in_spec = pytree.tree_structure((tuple(names), {}))
    output = graph.output_node()
    leaves, out_spec = pytree.tree_flatten(output.args[0])
    output.args = (tuple(leaves),)
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, in_spec, out_spec)))


def _name_modules(arrival: Arrival, node: fx.Node) -> None:
    """Write the modules that an operator comes from as dotted names."""
    stack = node.meta.get("nn_module_stack")
    if stack:
        node.meta["nn_module_stack"] = {
            key: (module_path(arrival, str(path)), kind) for key, (path, kind) in stack.items()
        }


def _attributes(traced: fx.GraphModule, tensors: Mapping[str, Tensor]) -> dict[str, Attribute]:
    """Parameters, buffers and folded values, and the constants that the trace met.

    Raises:
        CaptureError: A constant holds no numbers.
    """
    found = {name: Attribute(tensor) for name, tensor in tensors.items()}
    for node in traced.graph.find_nodes(op="get_attr"):
        constant = getattr(traced, str(node.target), None)
        if isinstance(constant, FakeTensor):
            raise CaptureError(f"the constant {node.target} of the graph holds no numbers")
        if isinstance(constant, Tensor) and node.target not in found:
            found[str(node.target)] = Attribute(constant, persistent=False)
    return found
