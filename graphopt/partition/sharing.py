"""What several items need: parameters, inputs, and work that does not depend on the sample."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import fx

from graphopt.partition.node_kinds import NodeKinds
from graphopt.partition.workload import Storage


def needs(kinds: NodeKinds, item: Mapping[fx.Node, int]) -> dict[fx.Node, frozenset[int]]:
    """Return for each node that is not divided the items that need its value, directly or through others like it.

    What the program returns of them is needed by item 0, on whose device the sampling loop runs.

    Args:
        kinds: the nodes of a program.
        item: item of every divided node.
    """
    found: dict[fx.Node, frozenset[int]] = {}
    for node in reversed(kinds.flow.nodes):
        if node in item or node.op == "output":
            continue
        own: set[int] = set()
        for user in kinds.readers(node):
            own |= _needs_of(user, item, found)
        for user in _later_readers(kinds, node):
            own |= _needs_of(user, item, found)
        found[node] = frozenset(own)
    return found


def storages(graph_module: fx.GraphModule, needed: Mapping[fx.Node, frozenset[int]]) -> tuple[Storage, ...]:
    """Return the storages of parameters, buffers and constants with the items that read them."""
    tensors: dict[str, Any] = dict(graph_module.named_parameters(remove_duplicate=False))
    tensors.update(graph_module.named_buffers(remove_duplicate=False))
    names: dict[int, str] = {}
    size: dict[int, int] = {}
    items: defaultdict[int, set[int]] = defaultdict(set)
    for node, readers in needed.items():
        if node.op != "get_attr" or str(node.target) not in tensors or not readers:
            continue
        memory = tensors[str(node.target)].untyped_storage()
        names[memory._cdata] = min(str(node.target), names.get(memory._cdata, str(node.target)))
        size[memory._cdata] = int(memory.nbytes())
        items[memory._cdata] |= readers
    found = [Storage(names[key], size[key], tuple(sorted(items[key]))) for key in names]
    return tuple(sorted(found, key=lambda storage: (storage.items, storage.name)))


def _needs_of(user: fx.Node, item: Mapping[fx.Node, int], found: Mapping[fx.Node, frozenset[int]]) -> frozenset[int]:
    if user.op == "output":
        return frozenset({0})
    return frozenset({item[user]}) if user in item else found.get(user, frozenset())


def _later_readers(kinds: NodeKinds, node: fx.Node) -> list[fx.Node]:
    """Return the readers of memory that an operator writes to."""
    return kinds.flow.users[node] if kinds.flow.writers.get(node) else []
