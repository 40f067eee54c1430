"""Where the indices of an axis lie in a flat dimension of a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.dependency.terms import Dim, Leaf, dim_size

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Masks: TypeAlias = Mapping[Leaf, BoolArray]
"""Which indices of each axis are kept; axes left out keep all."""


@dataclass(frozen=True)
class Box:
    """A strided box: index ``i`` of the axis takes ``offset + i * stride + sum(k_j * stride_j)``.

    Attributes:
        offset: flat index of the first element.
        stride: distance between neighbouring indices of the axis.
        repeats: (count, stride) for each further factor that multiplies the axis.
    """

    offset: int
    stride: int
    repeats: tuple[tuple[int, int], ...] = ()

    def indices(self, size: int) -> IntArray:
        """Flat indices, shape ``(size, product of repeat counts)``."""
        flat = self.offset + self.stride * np.arange(size, dtype=np.int64)[:, None]
        for count, stride in self.repeats:
            steps = stride * np.arange(count, dtype=np.int64)
            flat = (flat[:, :, None] + steps).reshape(size, -1)
        return flat


@dataclass(frozen=True)
class Placement:
    """All occurrences of one axis in one dimension of a tensor."""

    size: int
    boxes: tuple[Box, ...]

    def indices(self) -> IntArray:
        """Flat indices, shape ``(size, m)``: row ``i`` is what index ``i`` of the axis takes."""
        return np.concatenate([box.indices(self.size) for box in self.boxes], axis=1)

    def to_list(self) -> list[dict[str, Any]]:
        """JSON form: one object a box."""
        return [
            {"offset": box.offset, "stride": box.stride, "repeats": [list(pair) for pair in box.repeats]}
            for box in self.boxes
        ]

    @classmethod
    def from_list(cls, size: int, boxes: list[Mapping[str, Any]]) -> Placement:
        """Read the JSON form."""
        return cls(
            size,
            tuple(
                Box(int(box["offset"]), int(box["stride"]), tuple((int(n), int(s)) for n, s in box["repeats"]))
                for box in boxes
            ),
        )


def occurrences(
    dim: Dim, offset: int = 0, scale: int = 1, repeats: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[Leaf, Box]]:
    """Every leaf of a resolved dimension with the box of flat indices that it spans."""
    if not dim_size(dim):
        return  # an empty dimension has no indices
    stride = scale * dim_size(dim)
    strides: list[int] = []
    for factor in dim:
        stride //= factor.size
        strides.append(stride)
    for position, factor in enumerate(dim):
        others = tuple((f.size, s) for k, (f, s) in enumerate(zip(dim, strides, strict=True)) if k != position)
        around = _merged(repeats + others)
        if isinstance(factor, Leaf):
            yield factor, Box(offset, strides[position], around)
            continue
        start = offset
        for part in factor.parts:
            yield from occurrences(part, start, strides[position], around)
            start += dim_size(part) * strides[position]


def _merged(repeats: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Join repeats that continue each other."""
    out: list[tuple[int, int]] = []
    for count, stride in sorted(repeats, key=lambda pair: -pair[1]):
        if out and out[-1][1] == count * stride:
            out[-1] = (out[-1][0] * count, stride)
        else:
            out.append((count, stride))
    return tuple(out)


def kept_mask(dim: Dim, kept: Masks) -> BoolArray:
    """Which flat indices of a resolved dimension stay, shape ``(size,)``; leaves without an entry stay whole."""
    mask = np.ones(1, dtype=np.bool_)
    for factor in dim:
        if isinstance(factor, Leaf):
            inner = kept.get(factor)
            inner = np.ones(factor.size, dtype=np.bool_) if inner is None else inner
        else:
            inner = np.concatenate([kept_mask(part, kept) for part in factor.parts])
        mask = np.logical_and.outer(mask, inner).reshape(-1)
    return mask


def kept_size(dim: Dim, counts: Mapping[Leaf, int]) -> int:
    """How many indices of a resolved dimension stay when each leaf keeps ``counts`` of its own."""
    size = 1
    for factor in dim:
        if isinstance(factor, Leaf):
            size *= counts.get(factor, factor.size)
        else:
            size *= sum(kept_size(part, counts) for part in factor.parts)
    return size
