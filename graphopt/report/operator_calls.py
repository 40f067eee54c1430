"""One operator of a program called by itself, on random tensors of the shapes that it has when axes are cut short."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.terms import Leaf
from graphopt.rewrite.constants import kept_number, rewrite_constants
from graphopt.values import hint, value_of
from graphopt.wire import dense_strides, stride_order

Counts = Mapping[Leaf, int]


@dataclass(frozen=True)
class OperatorCall:
    """An operator and how its operands look; it holds no tensors until it is prepared.

    Attributes:
        target: The operator.
        args: Its arguments; a `TensorLike` where a tensor goes.
        kwargs: Those by name.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Text that is equal for calls that do the same work."""
        return f"{self.target} {self.args} {dict(self.kwargs)}"

    def prepare(self) -> Callable[[], Any]:
        """Return a function that runs the operator on tensors made now."""
        args, kwargs = _filled(self.args), _filled(dict(self.kwargs))
        return lambda: self.target(*args, **kwargs)


@dataclass(frozen=True)
class TensorLike:
    """What a tensor looks like.

    Attributes:
        shape: Its sizes.
        strides: Its strides.
        dtype: Type of its elements.
        device: Where it lies.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def make(self) -> Tensor:
        """Return one of small random numbers; whole numbers are 0, which is an index of anything, and flags are set."""
        tensor = torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device)
        if self.dtype.is_floating_point and self.dtype.itemsize > 1:
            return tensor.normal_()
        return tensor.copy_(torch.ones_like(tensor) if self.dtype == torch.bool else torch.zeros_like(tensor))


def operator_call(graph: DependencyGraph, node: fx.Node, counts: Counts) -> OperatorCall:
    """Return the call that a node makes when each leaf keeps ``counts`` of its indices.

    Args:
        graph: Analysis of the program.
        node: An ATen operator.
        counts: Leaves left out stay whole.
    """
    alone = fx.Graph()
    stand_ins = {operand: alone.placeholder(operand.name) for operand in node.all_input_nodes}
    duplicate = alone.node_copy(node, stand_ins.__getitem__)
    rewrite_constants(graph, counts, {node: duplicate})
    values: dict[fx.Node, Any] = {stand_in: _operand(graph, own, counts) for own, stand_in in stand_ins.items()}
    for added in alone.nodes:
        if added.op == "call_function" and added is not duplicate:
            values[added] = added.target(*fx.map_arg(added.args, values.__getitem__))
    args, kwargs = fx.map_arg((duplicate.args, duplicate.kwargs), values.__getitem__)
    return OperatorCall(node.target, tuple(args), kwargs)


def _operand(graph: DependencyGraph, operand: fx.Node, counts: Counts) -> Any:
    value = value_of(operand)
    if not isinstance(value, Tensor):
        is_whole = isinstance(value, int | torch.SymInt) and not isinstance(value, bool)
        return kept_number(graph, operand, counts) if is_whole else value
    shape = graph.kept_shape(operand, counts)
    order = stride_order(tuple(map(hint, value.stride())))
    return TensorLike(shape, dense_strides(shape, order), value.dtype, value.device)


def _filled(value: Any) -> Any:
    if isinstance(value, TensorLike):
        return value.make()
    if isinstance(value, Mapping):
        return {name: _filled(item) for name, item in value.items()}
    return type(value)(map(_filled, value)) if isinstance(value, list | tuple) else value
