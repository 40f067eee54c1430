"""Multiply-accumulates of one operator, from shapes alone.

A multiply-accumulate is one multiplication and the addition of its product. Contractions are counted: linear layers,
convolutions, matrix products, einsum, attention and recurrent layers. Elementwise operators, normalisations, softmax,
poolings and biases count zero; on the models meant here they are a few per cent and bound by memory, which
`Cost.bytes_moved` tells.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import fx

from graphopt.arguments import arguments_of, nodes_in
from graphopt.parts import part_of

Shape = Sequence[int]


def tensor_operands(node: fx.Node) -> list[fx.Node]:
    """Return the operands of a node that are tensors, in the order of its arguments, nested lists flattened."""
    operands = nodes_in((node.args, node.kwargs))
    return [operand for operand in operands if isinstance(operand.meta.get("val"), torch.Tensor)]


def node_macs(node: fx.Node, input_shapes: Sequence[Shape], output_shape: Shape) -> int:
    """Return the multiply-accumulates of an operator if its operands had the given shapes.

    Args:
        node: Which operator, and its arguments that are no tensors.
        input_shapes: Shape of each of `tensor_operands(node)`, in that order.
        output_shape: Shape of the first result.
    """
    formula = FORMULAS.get(operator_name(node))
    return formula(node, input_shapes, output_shape) if formula is not None else 0


def operator_name(node: fx.Node) -> str:
    """Return namespace and name of an operator without its overload, such as `aten::conv2d`."""
    return str(node.target._schema.name) if isinstance(node.target, torch._ops.OpOverload) else ""


def _linear(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Outputs × in_features."""
    return math.prod(output) * inputs[1][-1]


def _convolution(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Outputs × in_channels/groups × kernel; weight: (out_channels, in_channels // groups, *kernel)."""
    return math.prod(output) * math.prod(inputs[1][1:])


def _transposed_convolution(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Inputs × out_channels/groups × kernel; weight: (in_channels, out_channels // groups, *kernel)."""
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _any_convolution(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    transposed = bool(node.args[6]) if len(node.args) > 6 else bool(node.kwargs.get("transposed", False))
    return (_transposed_convolution if transposed else _convolution)(node, inputs, output)


def _product(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Outputs × the last size of the left factor; an outer product has no such sum and counts its outputs."""
    return math.prod(output) * inputs[0][-1]


def _added_product(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """As a product of the second and third operand; the first is added."""
    return math.prod(output) * inputs[1][-1]


def _outer(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    return math.prod(output)


def _batch_summed_product(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """A product for each of the batch, summed over it."""
    return math.prod(output) * inputs[1][0] * inputs[1][-1]


def _tensordot(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Outputs × the sizes of the dimensions summed over."""
    summed = arguments_of(node)["dims_self"]
    return math.prod(output) * math.prod(inputs[0][int(dim)] for dim in summed)


def _bilinear(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """weight: (out_features, in1_features, in2_features)."""
    return math.prod(output) * inputs[2][1] * inputs[2][2]


def _distances(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Outputs × features."""
    return math.prod(output) * inputs[0][-1]


def _similarity(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """A product of two tensors and the square of each, summed over one dimension."""
    sizes: Sequence[int] = torch.broadcast_shapes(*inputs[:2])
    return 3 * math.prod(sizes)


def _attention(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Queries × keys × (query features + value features), for each head of the queries; no half for causal masks."""
    query, key, value = inputs[:3]
    return math.prod(output[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrence(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Every weight matrix once for each step of each sequence; a cell makes one step."""
    steps = math.prod(inputs[0][:-1])
    states = 3 if operator_name(node).startswith("aten::lstm") else 2
    return steps * sum(math.prod(shape) for shape in inputs[states:] if len(shape) == 2)


def _einsum(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Operands contracted from left to right: each step the product of all sizes it runs over."""
    left, _, right = str(node.args[0]).replace(" ", "").partition("->")
    terms = [_expand_ellipsis(term, len(shape)) for term, shape in zip(left.split(","), inputs, strict=True)]
    sizes: dict[str, int] = {}
    for labels, shape in zip(terms, inputs, strict=True):
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    total, held = 0, set(terms[0])
    for place, labels in enumerate(terms[1:], start=1):
        held |= set(labels)
        total += math.prod(sizes[label] for label in held)
        later = set().union(*terms[place + 1 :]) | set(_expand_ellipsis(right, len(output)))
        held &= later
    return total


def _expand_ellipsis(term: str, rank: int) -> list[str]:
    """Return one label a dimension; those of an ellipsis are numbered from the right, as they broadcast."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f".{number}" for number in reversed(range(hidden))), *after]


def _kept_whole(node: fx.Node, inputs: Sequence[Shape], output: Shape) -> int:
    """What the module's own code multiplies on made-up tensors of these shapes."""
    dtypes = [operand.meta["val"].dtype for operand in tensor_operands(node)]
    made = [torch.empty(tuple(shape), dtype=dtype, device="meta") for shape, dtype in zip(inputs, dtypes, strict=True)]
    arguments = arguments_of(node)
    count = len(arguments["inputs"])
    return part_of(arguments["serial"], arguments["name"]).macs(made[:count], made[count:])


FORMULAS: dict[str, Callable[[fx.Node, Sequence[Shape], Shape], int]] = {
    "aten::linear": _linear,
    "aten::conv1d": _convolution,
    "aten::conv2d": _convolution,
    "aten::conv3d": _convolution,
    "aten::convolution": _any_convolution,
    "aten::conv_transpose1d": _transposed_convolution,
    "aten::conv_transpose2d": _transposed_convolution,
    "aten::conv_transpose3d": _transposed_convolution,
    "aten::matmul": _product,
    "aten::linalg_matmul": _product,
    "aten::tensordot": _tensordot,
    "aten::mm": _product,
    "aten::bmm": _product,
    "aten::mv": _product,
    "aten::dot": _product,
    "aten::vdot": _product,
    "aten::inner": _product,
    "aten::addmm": _added_product,
    "aten::addmv": _added_product,
    "aten::baddbmm": _added_product,
    "aten::addbmm": _batch_summed_product,
    "aten::outer": _outer,
    "aten::kron": _outer,
    "aten::bilinear": _bilinear,
    "aten::cdist": _distances,
    "aten::_cdist_forward": _distances,
    "aten::_euclidean_dist": _distances,
    "aten::cosine_similarity": _similarity,
    "aten::einsum": _einsum,
    "aten::scaled_dot_product_attention": _attention,
    "aten::lstm": _recurrence,
    "aten::gru": _recurrence,
    "aten::rnn_tanh": _recurrence,
    "aten::rnn_relu": _recurrence,
    "aten::lstm_cell": _recurrence,
    "aten::gru_cell": _recurrence,
    "aten::rnn_tanh_cell": _recurrence,
    "aten::rnn_relu_cell": _recurrence,
    "aten::_grouped_mm": _product,
    "graphopt::opaque": _kept_whole,
    "transformers::grouped_mm_fallback": _product,
}
