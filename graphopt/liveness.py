"""How many bytes of activations are alive at once while a graph runs in its order."""

import math
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import fx

from graphopt.aliasing import bodies
from graphopt.values import hint, tensors_in, value_of
from graphopt.wiring import walk


def activation_peak(graph_module: fx.GraphModule, *, packed_inputs: bool = False) -> int:
    """Return the most bytes of activations alive at once.

    A value lives from the operator that makes it to its last reader, together with all views of it; inputs live
    throughout, since the caller holds them; parameters, buffers and scratch memory of operators are not counted.

    Args:
        graph_module: Every node carries its `meta["val"]`; symbolic sizes count as on the example.
        packed_inputs: Count of inputs their own elements alone, not the memory that they are views of.
    """
    nodes = list(walk(graph_module))
    memory = _Memory(graph_module, nodes)
    if packed_inputs:
        memory.pack_inputs(graph_module)
    change = [0] * (len(nodes) + 1)
    for first, last, size_bytes in memory.lives():
        change[first] += size_bytes
        change[last + 1] -= size_bytes
    return max(accumulate(change), default=0)


class _Memory:
    """Storages of a graph's values; those that higher-order operators pass in and out of their bodies are one."""

    def __init__(self, graph_module: fx.GraphModule, nodes: list[fx.Node]) -> None:
        self.nodes = nodes
        self.same: dict[int, int] = {}
        self.size_bytes: dict[int, int] = {}
        self.packed: dict[int, int] = {}
        self.held = {storage for node in nodes if node.op == "get_attr" for storage, _ in _storages(value_of(node))}
        self.inputs = {
            storage
            for node in graph_module.graph.find_nodes(op="placeholder")
            for storage, _ in _storages(value_of(node))
        }
        for owner in _owners(graph_module):
            for node in owner.graph.nodes:
                self._join_bodies(owner, node)

    def pack_inputs(self, graph_module: fx.GraphModule) -> None:
        """Let the memory of inputs be as large as their elements."""
        for node in graph_module.graph.find_nodes(op="placeholder"):
            for storage, _ in _storages(value_of(node)):
                value = value_of(node)
                own = math.prod(hint(size) for size in value.shape) * value.element_size()
                self.packed[storage] = self.packed.get(storage, 0) + own

    def lives(self) -> Iterator[tuple[int, int, int]]:
        """Yield for every storage its first and last moment and its bytes."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for moment, node in enumerate(self.nodes):
            values = [value_of(node), *(value_of(operand) for operand in node.all_input_nodes)]
            for storage, size_bytes in _storages(values):
                root = self._find(storage)
                first.setdefault(root, moment)
                last[root] = moment
                self.size_bytes[root] = max(size_bytes, self.size_bytes.get(root, 0))
        held = {self._find(storage) for storage in self.held}
        inputs = {self._find(storage) for storage in self.inputs}
        for root in first.keys() - held:
            end = len(self.nodes) - 1 if root in inputs else last[root]
            size_bytes = min(self.size_bytes[root], self.packed.get(root, self.size_bytes[root]))
            yield (0 if root in inputs else first[root]), end, size_bytes

    def _join_bodies(self, owner: fx.GraphModule, node: fx.Node) -> None:
        for body, operands in bodies(owner, node):
            inside = body.graph.find_nodes(op="placeholder")
            for outer, inner in zip(operands, inside, strict=False):
                self._join(value_of(outer), value_of(inner))
            results = [value_of(leaf) for leaf in body.graph.output_node().all_input_nodes]
            self._join(value_of(node), results)

    def _join(self, left: Any, right: Any) -> None:
        for (one, _), (other, _) in zip(_storages(left), _storages(right), strict=False):
            if self._find(one) != self._find(other):
                self.same[self._find(other)] = self._find(one)

    def _find(self, storage: int) -> int:
        while storage in self.same:
            storage = self.same[storage]
        return storage


def _owners(graph_module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    yield graph_module
    for child in graph_module.children():
        if isinstance(child, fx.GraphModule):
            yield from _owners(child)


def _storages(value: Any) -> list[tuple[int, int]]:
    """Return identity and bytes of the storage of every tensor among nested values."""
    return [(tensor.untyped_storage()._cdata, _storage_bytes(tensor)) for tensor in tensors_in(value)]


def _storage_bytes(tensor: torch.Tensor) -> int:
    return hint(tensor.untyped_storage().nbytes())
