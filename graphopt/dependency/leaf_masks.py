"""Masks over the indices of axes, read off a tensor dimension and laid onto one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from graphopt.dependency.placement import BoolArray, Masks, kept_mask, occurrences
from graphopt.dependency.terms import Dim, Leaf, leaves

LeafMasks: TypeAlias = dict[Leaf, BoolArray]
"""A mask for each axis; an axis without one is true everywhere."""

RowMasks: TypeAlias = dict[tuple[int, Leaf], BoolArray]
"""The same by tensor dimension, for tensors that one axis lies on twice."""


def along(values: Tensor, position: int) -> BoolArray:
    """Which indices of one dimension of a boolean tensor hold a true value, shape ``(size,)``."""
    others = [place for place in range(values.dim()) if place != position]
    flat = values.any(dim=others) if others else values
    found: BoolArray = flat.cpu().numpy()
    return found


def projected(dim: Dim, flat: BoolArray) -> LeafMasks:
    """The indices of each axis of a resolved dimension that some true flat index belongs to."""
    found: LeafMasks = {}
    for leaf, box in occurrences(dim):
        mask: BoolArray = np.any(flat[box.indices(leaf.size)], axis=1)
        found[leaf] = found[leaf] | mask if leaf in found else mask
    return found


def rows_of(values: Tensor, dims: Sequence[Dim]) -> RowMasks:
    """For each dimension of a boolean tensor, and each axis on it, where a true value lies."""
    return {
        (position, leaf): mask
        for position, dim in enumerate(dims)
        for leaf, mask in projected(dim, along(values, position)).items()
    }


def restricted(values: Tensor, position: int, dim: Dim, masks: Masks) -> Tensor:
    """A boolean tensor with everything false along a dimension where the masks of its axes are."""
    flat = kept_mask(dim, masks)
    if flat.all():
        return values
    shape = [1] * values.dim()
    shape[position] = -1
    return values & torch.from_numpy(flat).to(values.device).reshape(shape)


def joined(rows: Mapping[tuple[int, Leaf], BoolArray]) -> LeafMasks:
    """The union over the dimensions that an axis lies on."""
    found: LeafMasks = {}
    for (_, leaf), mask in rows.items():
        found[leaf] = found[leaf] | mask if leaf in found else mask
    return found


def union(first: LeafMasks, second: LeafMasks) -> LeafMasks:
    """True where one of two is; an axis that one of them says nothing about is true everywhere."""
    return {leaf: mask | second[leaf] for leaf, mask in first.items() if leaf in second}


def limited(masks: LeafMasks, leaf: Leaf, mask: BoolArray | None) -> None:
    """Narrow one axis in place; None narrows nothing."""
    if mask is not None:
        masks[leaf] = masks[leaf] & mask if leaf in masks else mask


def only(masks: LeafMasks, leaves: Iterable[Leaf]) -> LeafMasks:
    """The masks of some axes."""
    return {leaf: masks[leaf] for leaf in leaves if leaf in masks}


def nothing(dims: Sequence[Dim], masks: LeafMasks) -> bool:
    """Whether the masks leave no index of some resolved dimension, so that nothing of the value is left."""
    if all(np.any(mask) for mask in masks.values()):
        return False
    return any(not np.any(kept_mask(dim, masks)) for dim in dims if masks.keys() & set(leaves(dim)))
