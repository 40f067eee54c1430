"""The graph as torch.onnx can take it: outputs are tensors, kernels written out, attention in contiguous memory."""

import torch
from torch import fx
from torch.fx.graph import _PyTreeCodeGen
from torch.utils import _pytree as pytree

from graphopt.copying import copy_graph
from graphopt.kernels import find_kernel
from graphopt.macs import operator_name

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_KERNELS = "graphopt::"


def exportable(graph_module: fx.GraphModule, kept: list[int]) -> fx.GraphModule:
    """Return a graph module over the same tensors that torch.onnx can convert.

    torch.onnx fails on outputs that are numbers or None, and knows no kernels: their references stand for them. It
    also computes attention twice, with results that lie differently in memory, so that a reshape that was free the
    first time is impossible the second; a copy of the result, which is gone from the file, settles how it lies.

    Args:
        graph_module: Left as it is.
        kept: Which of the flat outputs to return, ascending.
    """
    graph = fx.Graph()
    outputs = pytree.tree_leaves(graph.graph_copy(graph_module.graph, {}))
    graph.output(tuple(outputs[position] for position in kept))
    codegen = graph_module.graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        structure = pytree.tree_structure(tuple(kept))
        graph.set_codegen(_PyTreeCodeGen(codegen.pytree_info._replace(out_spec=structure)))
    copied = fx.GraphModule(graph_module, graph, type(graph_module).__name__)
    _write_out_kernels(copied)
    _settle_attention(copied)
    return copied


def _write_out_kernels(graph_module: fx.GraphModule) -> None:
    """Let the plain operators of its reference, which an export sees, stand for every kernel."""
    for node in graph_module.graph.nodes:
        name = operator_name(node)
        if name.startswith(_KERNELS):
            node.target = find_kernel(name.removeprefix(_KERNELS)).reference


def _settle_attention(graph_module: fx.GraphModule) -> None:
    """Put a contiguous copy behind every attention, in the bodies of higher-order operators too."""
    for name, body in list(graph_module.named_children()):
        if isinstance(body, fx.GraphModule):
            settled = copy_graph(body).assemble()
            _settle_attention(settled)
            graph_module.add_module(name, settled)
    graph = graph_module.graph
    for node in graph.find_nodes(op="call_function", target=_ATTENTION):
        users = list(node.users)
        with graph.inserting_after(node):
            settled_value = graph.call_function(
                torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format}
            )
        for user in users:
            user.replace_input_with(node, settled_value)
    graph_module.recompile()
