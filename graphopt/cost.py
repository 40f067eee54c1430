"""What a program costs: parameters, multiply-accumulates, memory traffic and the peak of its activations."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from graphopt.aliasing import is_mutating
from graphopt.liveness import activation_peak
from graphopt.macs import node_macs, operator_name, tensor_operands
from graphopt.preparation import collection_paused
from graphopt.program import Program
from graphopt.values import hint, tensors_in, value_of
from graphopt.wiring import walk


@dataclass(frozen=True)
class NodeCost:
    """Cost of one operator on the example inputs.

    Attributes:
        node: The operator's node.
        macs: Multiply-accumulates; zero for operators that contract nothing.
        bytes_read: Bytes of its tensor operands; zero where it only gives a view.
        bytes_written: Bytes of its results; zero where they are views.
    """

    node: fx.Node
    macs: int
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class Cost:
    """Cost of a program on its example inputs, symbolic sizes as there.

    Attributes:
        parameters: Number of weights, tied ones once; buffers are not counted.
        parameter_bytes: Their bytes.
        parameters_without_vocabulary: The same without tables that some `embedding` reads and that nothing else
            reads, apart from a linear head tied to them.
        macs: Multiply-accumulates; see `graphopt.macs` for what is counted.
        bytes_moved: Bytes that operators read and write; the same value read by two of them counts twice.
        activation_peak_bytes: Most bytes of inputs and activations alive at once in the order of the graph.
        nodes: Every operator's share, in the order of execution.
    """

    parameters: int
    parameter_bytes: int
    parameters_without_vocabulary: int
    macs: int
    bytes_moved: int
    activation_peak_bytes: int
    nodes: tuple[NodeCost, ...]


@collection_paused()
def cost(program: Program) -> Cost:
    """Count what a program costs, without running it; programs on the meta device will do."""
    nodes = tuple(_node_costs(program))
    weights = _unique_parameters(program.graph_module)
    tables = _vocabulary(program.graph_module)
    return Cost(
        parameters=sum(weight.numel() for weight in weights),
        parameter_bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        parameters_without_vocabulary=sum(weight.numel() for weight in weights if id(weight) not in tables),
        macs=sum(node.macs for node in nodes),
        bytes_moved=sum(node.bytes_read + node.bytes_written for node in nodes),
        activation_peak_bytes=activation_peak(program.graph_module),
        nodes=nodes,
    )


def example_macs(node: fx.Node) -> int:
    """Return the multiply-accumulates of a node on the example inputs; zero for what is no plain operator."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return 0
    shapes = [integer_shape(value_of(operand)) for operand in tensor_operands(node)]
    return node_macs(node, shapes, integer_shape(value_of(node)))


def vocabulary_tables(program: Program) -> frozenset[str]:
    """Return names of the parameters that `Cost.parameters_without_vocabulary` leaves out, tied names included."""
    tables = _vocabulary(program.graph_module)
    named = program.graph_module.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in named if id(parameter) in tables)


def integer_shape(value: Any) -> tuple[int, ...]:
    """Return the shape of a tensor with symbolic sizes as on the example; that of the first of several tensors."""
    tensors = tensors_in(value)
    return tuple(hint(size) for size in tensors[0].shape) if tensors else ()


def _node_costs(program: Program) -> Iterator[NodeCost]:
    for node in walk(program.graph_module):
        if isinstance(node.target, torch._ops.OpOverload):
            operands = tensor_operands(node)
            shapes = [integer_shape(value_of(operand)) for operand in operands]
            read, wrote = _traffic(node, operands)
            yield NodeCost(node, node_macs(node, shapes, integer_shape(value_of(node))), read, wrote)


def _traffic(node: fx.Node, operands: list[fx.Node]) -> tuple[int, int]:
    """Return bytes read and written; a view of an operand moves nothing."""
    values = [value_of(operand) for operand in operands]
    inside = {value.untyped_storage()._cdata for value in values}
    results = tensors_in(value_of(node))
    is_view = any(result.untyped_storage()._cdata in inside for result in results)
    if is_view and not is_mutating(node.target):
        return 0, 0
    return sum(map(_tensor_bytes, values)), sum(map(_tensor_bytes, results))


def _tensor_bytes(tensor: torch.Tensor) -> int:
    return math.prod(hint(size) for size in tensor.shape) * tensor.element_size()


def _unique_parameters(graph_module: fx.GraphModule) -> list[nn.Parameter]:
    unique: dict[Any, nn.Parameter] = {}
    for parameter in graph_module.parameters():
        place = (parameter.untyped_storage()._cdata, parameter.storage_offset(), parameter.shape)
        unique.setdefault(place, parameter)
    return list(unique.values())


def _vocabulary(graph_module: fx.GraphModule) -> set[int]:
    """Return identities of Parameters that an embedding looks up and that nothing but tied heads reads besides."""
    named = dict(graph_module.named_parameters(remove_duplicate=False))
    readers: dict[int, set[str]] = {}
    for node in graph_module.graph.find_nodes(op="get_attr"):
        if str(node.target) in named:
            readers.setdefault(id(named[str(node.target)]), set()).update(_reader(node, user) for user in node.users)
    return {table for table, roles in readers.items() if "table" in roles and roles <= {"table", "head"}}


def _reader(weight: fx.Node, user: fx.Node) -> str:
    if operator_name(user) == "aten::embedding" and user.args[0] is weight:
        return "table"
    return "head" if operator_name(user) == "aten::linear" and user.args[1] is weight else "other"
