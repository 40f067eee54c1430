"""Which values of a graph share memory, and which operators write to it.

A value's memory is told by the storage of its fake tensor, so that an operator that returns its own input on the
example (`contiguous`, `dropout` in evaluation) is seen as what it is.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import fx

from graphopt.arguments import nodes_in, schema_of
from graphopt.values import tensors_in, value_of
from graphopt.wiring import submodule_of, walk


class Aliases:
    """Memory of the values of one graph.

    Args:
        graph_module: Every node carries its `meta["val"]`.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self.order = {node: place for place, node in enumerate(graph_module.graph.nodes)}
        self._memory = {node: _storages(value_of(node)) for node in self.order}
        self._holders: defaultdict[int, list[fx.Node]] = defaultdict(list)
        for node, storages in self._memory.items():
            for storage in storages:
                self._holders[storage].append(node)
        targets = (operand for node in self.order for operand in written(graph_module, node))
        self.written = {storage for operand in targets for storage in self._memory[operand]}

    def is_written(self, node: fx.Node) -> bool:
        """Tell whether any operator of the graph writes to the memory of a value."""
        return not self.written.isdisjoint(self._memory[node])

    def holders(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes whose values lie in the memory of a value, in the order of the graph."""
        found = {holder for storage in self._memory[node] for holder in self._holders[storage]}
        return sorted(found, key=self.order.__getitem__)

    def is_inner(self, node: fx.Node) -> bool:
        """Tell whether a value's memory was made by this graph's plain operators: no input's, no parameter's."""
        return all(
            holder.op == "call_function" and not isinstance(holder.target, torch._ops.HigherOrderOperator)
            for holder in self.holders(node)
        )

    def part(self, node: fx.Node) -> list[fx.Node]:
        """Give a value and those after it that lie in its memory a memory of their own; return them in order."""
        moved = [holder for holder in self.holders(node) if self.order[holder] >= self.order[node]]
        for holder in moved:
            for storage in self._memory[holder]:
                self._holders[storage].remove(holder)
        fresh = -1 - self.order[node]
        self._memory.update(dict.fromkeys(moved, frozenset({fresh})))
        self._holders[fresh] = moved
        return moved


def written(graph_module: fx.GraphModule, node: fx.Node) -> Iterator[fx.Node]:
    """Yield the operands of a node to whose memory it writes; a higher-order operator's body is looked into."""
    if isinstance(node.target, torch._ops.OpOverload):
        yield from _written_arguments(node) if is_mutating(node.target) else ()
        return
    for body, operands in bodies(graph_module, node):
        inner = Aliases(body)
        placeholders = body.graph.find_nodes(op="placeholder")
        yield from (
            operand for operand, inside in zip(operands, placeholders, strict=False) if inner.is_written(inside)
        )


def bodies(graph_module: fx.GraphModule, node: fx.Node) -> Iterator[tuple[fx.GraphModule, list[fx.Node]]]:
    """Yield the bodies of a higher-order operator, each with the operands its placeholders stand for."""
    if node.op != "call_function" or isinstance(node.target, torch._ops.OpOverload):
        return
    leaves = nodes_in(node.args)
    found = [submodule_of(graph_module, leaf) for leaf in leaves]
    operands = [leaf for leaf, body in zip(leaves, found, strict=True) if body is None]
    yield from ((body, operands) for body in found if body is not None)


def written_attributes(graph_module: fx.GraphModule) -> frozenset[str]:
    """Return the names of the tensors that a graph writes to when it runs."""
    if not any(is_mutating(node.target) for node in walk(graph_module)):
        return frozenset()
    aliases = Aliases(graph_module)
    reads = graph_module.graph.find_nodes(op="get_attr")
    return frozenset(str(node.target) for node in reads if aliases.is_written(node))


def is_mutating(target: Any) -> bool:
    """Tell whether an operator's schema says that it writes to an argument; `detach_` leaves the numbers alone."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target._schema.is_mutable and target is not torch.ops.aten.detach_.default


def same_view(left: Any, right: Any) -> bool:
    """Tell whether two values are the same elements of the same memory in the same order and type."""
    if not isinstance(left, torch.Tensor) or not isinstance(right, torch.Tensor):
        return False
    if left.dtype != right.dtype or left.is_conj() != right.is_conj() or left.is_neg() != right.is_neg():
        return False
    if left.untyped_storage()._cdata != right.untyped_storage()._cdata:
        return False
    left_layout, right_layout = _layout(left), _layout(right)
    return len(left_layout) == len(right_layout) and all(map(_is_same_number, left_layout, right_layout))


def _layout(tensor: torch.Tensor) -> list[int | torch.SymInt]:
    """Return offset, sizes, and the strides that lead anywhere: along a dimension of one element there is no step."""
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    moving = [0 if type(size) is int and size == 1 else stride for size, stride in strides]
    return [tensor.storage_offset(), *tensor.shape, *moving]


def _is_same_number(one: int | torch.SymInt, other: int | torch.SymInt) -> bool:
    """Compare without adding a guard: two symbolic sizes are the same only if their expressions are."""
    return bool(_expression(one) == _expression(other))


def _expression(size: int | torch.SymInt) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _written_arguments(node: fx.Node) -> Iterable[fx.Node]:
    for place, argument in enumerate(schema_of(node).arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        yield from nodes_in(value)


def _storages(value: Any) -> frozenset[int]:
    return frozenset(tensor.untyped_storage()._cdata for tensor in tensors_in(value))
