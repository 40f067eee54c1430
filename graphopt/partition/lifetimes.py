"""How long the memory of activations lives, in items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from graphopt.partition.workload import Life
from graphopt.values import hint, value_of


def memory_lives(place: Mapping[fx.Node, int], lasting: Iterable[fx.Node]) -> list[Life]:
    """Return the life of every storage that some operators make, in places.

    Args:
        place: place of every operator.
        lasting: reads of parameters and inputs, whose memory is no activation.
    """
    held = {storage for node in lasting for storage, _ in _storages(value_of(node))}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    size: dict[int, int] = {}
    for node, own in place.items():
        end = max((place.get(user, own) for user in node.users), default=own)
        for storage, size_bytes in _storages(value_of(node)):
            first.setdefault(storage, own)
            last[storage] = max(end, last.get(storage, end))
            size[storage] = max(size_bytes, size.get(storage, 0))
    return [Life(first[storage], last[storage], size[storage]) for storage in first if storage not in held]


def lives_in_items(lives: Iterable[Life], item: Sequence[int]) -> tuple[tuple[Life, ...], tuple[int, ...]]:
    """Divide lives into those that outlive their item and the peak of the others.

    Args:
        lives: in places of nodes.
        item: item of every place.

    Returns:
        Lives in items, and for each item the most bytes at once of what does not outlive it.
    """
    known = list(lives)
    change = [0] * (len(item) + 1)
    for life in known:
        if item[life.first] == item[life.last]:
            change[life.first] += life.size_bytes
            change[life.last + 1] -= life.size_bytes
    scratch = [0] * (item[-1] + 1)
    for number, alive in zip(item, accumulate(change), strict=False):
        scratch[number] = max(scratch[number], alive)
    outer = [Life(item[life.first], item[life.last], life.size_bytes) for life in known]
    return tuple(life for life in outer if life.first != life.last), tuple(scratch)


def _storages(value: Any) -> Iterator[tuple[int, int]]:
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            yield leaf.untyped_storage()._cdata, hint(leaf.untyped_storage().nbytes())
