"""The graph as torch.onnx can take it: outputs are tensors, kernels written out, attention in contiguous memory."""

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.graph import _PyTreeCodeGen
from torch.nn.functional import scaled_dot_product_attention
from torch.utils import _pytree as pytree

from graphopt.copying import copy_graph
from graphopt.kernels import find_kernel
from graphopt.macs import operator_name

aten = torch.ops.aten
_ATTENTION = aten.scaled_dot_product_attention.default
_MAXIMA = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
_PADDING = (aten.pad.default, aten.constant_pad_nd.default)
_NUMBERS = (aten.item.default, aten._local_scalar_dense.default)
_DIMENSIONS = 4
_KERNELS = "graphopt::"
_GROUPED = "transformers::grouped_mm_fallback"


def exportable(graph_module: fx.GraphModule, kept: list[int]) -> fx.GraphModule:
    """Return a graph module over the same tensors that torch.onnx can convert.

    torch.onnx fails on outputs that are numbers or None, on attention that is not of four dimensions and on exponents
    taken out of a tensor, and knows no kernels; ONNX Runtime makes padding with zeros the padding of a maximum behind
    it, which is minus infinity. What means the same stands for each. torch.onnx also computes attention twice, with
    results that lie differently in memory, so that a reshape that was free the first time is impossible the second; a
    copy of the result, which is gone from the file, settles how it lies.

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
    _mend(copied)
    return copied


def _mend(graph_module: fx.GraphModule) -> None:
    """Replace what torch.onnx gets wrong, in the bodies of higher-order operators too."""
    for name, body in list(graph_module.named_children()):
        if isinstance(body, fx.GraphModule):
            mended = copy_graph(body).assemble()
            _mend(mended)
            graph_module.add_module(name, mended)
    _write_out_kernels(graph_module)
    _raise_to_tensors(graph_module.graph)
    _part_padding_from_maxima(graph_module.graph)
    _settle_attention(graph_module)
    graph_module.recompile()


def _write_out_kernels(graph_module: fx.GraphModule) -> None:
    """Let plain operators, which an export sees, stand for every kernel and for products of routed rows."""
    for node in graph_module.graph.nodes:
        name = operator_name(node)
        if name.startswith(_KERNELS):
            node.target = find_kernel(name.removeprefix(_KERNELS)).reference
        if name == _GROUPED:
            node.target = _product_of_groups


def _product_of_groups(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Each of ``rows: (S, I)`` times the matrix of its group, of ``(groups, I, O)``; rows behind the last end give 0.

    Every row is given a matrix of its own, which takes memory for S of them.
    """
    places = torch.arange(rows.shape[0], device=rows.device)
    group = (places[:, None] >= ends).sum(1)
    product = torch.bmm(rows[:, None], matrices[group.clamp(max=matrices.shape[0] - 1)])[:, 0]
    return product * (group < matrices.shape[0])[:, None]


def _raise_to_tensors(graph: fx.Graph) -> None:
    """Let a power read the tensor itself that its exponent is taken out of."""
    for node in graph.find_nodes(op="call_function", target=aten.pow.Tensor_Scalar):
        number = node.args[1]
        if not isinstance(number, fx.Node) or number.target not in _NUMBERS:
            continue
        with graph.inserting_before(node):
            exponent = graph.call_function(aten.reshape.default, (number.args[0], []))
            cast = graph.call_function(aten.to.dtype, (exponent, node.meta["val"].dtype))
        node.target = aten.pow.Tensor_Tensor
        node.args = (node.args[0], cast)


def _part_padding_from_maxima(graph: fx.Graph) -> None:
    """Put an operator that changes nothing, and that no optimiser takes out, between padding and the maximum of it."""
    for node in [node for target in _MAXIMA for node in graph.find_nodes(op="call_function", target=target)]:
        padding = node.args[0]
        if padding.target not in _PADDING:
            continue
        with graph.inserting_before(node):
            lowest = torch.finfo(padding.meta["val"].dtype).min
            between = graph.call_function(aten.clamp_min.default, (padding, lowest))
        node.replace_input_with(padding, between)


def _settle_attention(graph_module: fx.GraphModule) -> None:
    """Give every attention four dimensions and put a contiguous copy behind it."""
    graph = graph_module.graph
    for node in graph.find_nodes(op="call_function", target=_ATTENTION):
        if node.args[0].meta["val"].ndim != _DIMENSIONS:
            node.target = _attention_of_four_dimensions
        users = list(node.users)
        with graph.inserting_after(node):
            settled_value = graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
        for user in users:
            user.replace_input_with(node, settled_value)


def _attention_of_four_dimensions(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *others: Any, **options: Any
) -> Tensor:
    """Attention of ``(..., heads, tokens, channels)`` with what is before the heads made one dimension."""
    leading, shape = query.shape[:-2], (*query.shape[:-1], value.shape[-1])
    if attn_mask is not None and query.ndim > _DIMENSIONS and attn_mask.ndim >= _DIMENSIONS:
        attn_mask = _of_four_dimensions(attn_mask.expand(*leading, *attn_mask.shape[-2:]))
    query, key, value = (_of_four_dimensions(part) for part in (query, key, value))
    result = scaled_dot_product_attention(query, key, value, attn_mask, *others, **options)
    return result.reshape(shape)


def _of_four_dimensions(tensor: Tensor) -> Tensor:
    if tensor.ndim < _DIMENSIONS:
        return tensor[(None,) * (_DIMENSIONS - tensor.ndim)]
    return tensor.flatten(0, tensor.ndim - _DIMENSIONS)
