"""Positions that nothing tells apart: of values that are one number everywhere, or that are read for their size."""

from __future__ import annotations

import torch
from torch import fx

from graphopt.aliasing import Aliases
from graphopt.arguments import arguments_of

aten = torch.ops.aten
_LIKE = {aten.zeros_like.default, aten.ones_like.default, aten.full_like.default}
_FILLS = _LIKE | {aten.zeros.default, aten.ones.default, aten.full.default}
_FILLS |= {aten.new_zeros.default, aten.new_ones.default, aten.new_full.default}
_SIZES = _LIKE | {aten.sym_size.int, aten.empty_like.default, aten.new_empty.default}
_SIZES |= {aten.new_zeros.default, aten.new_ones.default, aten.new_full.default}
_CASTS = {aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.clone.default}


def takes_any_position(node: fx.Node) -> bool:
    """Whether a ``select`` of the first or last position gives the same of any other.

    Args:
        node: a call of ``aten.select.int``.
    """
    if arguments_of(node)["index"] not in (0, -1):
        return False
    source = node.all_input_nodes[0]
    while source.target in _CASTS:
        source = source.all_input_nodes[0]
    return (source.target in _FILLS and not _is_written(source)) or _is_read_for_its_size(node)


def _is_read_for_its_size(node: fx.Node) -> bool:
    return bool(node.users) and all(user.target in _SIZES for user in node.users)


def _is_written(node: fx.Node) -> bool:
    module = node.graph.owning_module
    return module is None or Aliases(module).is_written(node)
