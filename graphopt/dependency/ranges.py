"""Index tensors that name every position of a dimension in order: such a lookup leaves out and repeats nothing."""

from __future__ import annotations

import torch
from torch import fx

from graphopt.arguments import arguments_of

aten = torch.ops.aten
_LOOKUPS = {aten.index.Tensor, aten.index_put.default, aten._unsafe_index.Tensor, aten._unsafe_index_put.default}
_CASTS = {aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.alias.default, aten.clone.default}


def is_whole_range(item: fx.Node, size: int) -> bool:
    """Whether an index tensor counts from 0 to a dimension's last position, and is there for such lookups alone.

    Sliced, it counts the positions that are left.

    Args:
        item: the index tensor.
        size: number of positions of the dimension that it looks up.
    """
    source = item
    while source.target in _CASTS:
        source = source.all_input_nodes[0]
    return _length(source) == size and counts_positions(source)


def counts_positions(node: fx.Node) -> bool:
    """Whether a range is read by lookups of whole dimensions of its length alone."""
    length = _length(node)
    return length is not None and all(_looks_up(user, node, length) for user in node.users)


def _looks_up(user: fx.Node, item: fx.Node, length: int) -> bool:
    if user.target in _CASTS:
        return all(_looks_up(reader, user, length) for reader in user.users)
    if user.target not in _LOOKUPS or not isinstance(user.args[1], list | tuple):
        return False
    source, indices = user.args[0], user.args[1]
    if not isinstance(source, fx.Node) or any(node is item for node in (source, *user.args[2:])):
        return False
    shape = source.meta["val"].shape
    given = [(place, index) for place, index in enumerate(indices) if index is not None]
    return all(index is item and shape[place] == length for place, index in given)


def _length(node: fx.Node) -> int | None:
    """Number of positions of ``arange(n)``; None for anything else."""
    if node.target not in {aten.arange.default, aten.arange.start, aten.arange.start_step}:
        return None
    given = arguments_of(node)
    end = given["end"]
    is_plain = given.get("start", 0) == 0 and given.get("step", 1) == 1 and isinstance(end, int)
    return end if is_plain else None
