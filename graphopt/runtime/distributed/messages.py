"""Messages between devices: how a tensor lies in one, and what is known of it beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphopt.errors import RuntimeMismatchError
from graphopt.partition.sending import Route, route
from graphopt.stages import Edge, Partition
from graphopt.wire import MOST_GAPS, dense_strides, kept_strides, packed, stride_order

DIMENSIONS = 16
"""Most dimensions of a tensor that is sent."""

SPEC_NUMBERS = 2 + 2 * DIMENSIONS
"""Numbers that tell the shape, type and strides of a tensor."""

DTYPES: tuple[torch.dtype, ...] = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
"""Types of tensors that are sent; the place of each is its number on the wire."""


def is_same_input(value: Tensor, before: tuple[Tensor, int] | None) -> bool:
    """Tell whether an input is the tensor that it was at the step before, and nobody has written to it since.

    Args:
        value: the input.
        before: what `input_mark` gave for it at the step before.
    """
    return before is not None and before[0] is value and before[1] == version_of(value) >= 0


def input_mark(value: Tensor) -> tuple[Tensor, int]:
    """Return what `is_same_input` compares with at the next step."""
    return value, version_of(value)


def version_of(value: Tensor) -> int:
    """How often a tensor was written to; -1 for tensors of inference mode, which do not count."""
    return -1 if value.is_inference() else value._version


def all_edges(partition: Partition) -> tuple[Edge, ...]:
    """Every edge of every phase once, told apart by value, source and target; the place is its number on the wire."""
    found: dict[Route, Edge] = {}
    for name in sorted(partition.phases):
        for edge in partition.phases[name].edges:
            found.setdefault(route(edge), edge)
    return tuple(found.values())


def sendable(value: Tensor) -> Tensor:
    """Copy a tensor without gaps, as `packed` lays it out: what is sent is not changed by who writes to the value.

    Args:
        value: any shape and strides.
    """
    return packed(value.detach())


def bytes_of(value: Tensor) -> Tensor:
    """The memory of a packed tensor as bytes: (numel * itemsize,) uint8, not copied."""
    return value.as_strided((value.numel(),), (1,)).view(torch.uint8)


@dataclass(frozen=True)
class TensorSpec:
    """What the receiver of a tensor is told before the first one.

    Attributes:
        shape: sizes.
        dtype: type.
        strides: strides that the receiver gives it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    strides: tuple[int, ...]

    @classmethod
    def of(cls, value: Tensor) -> TensorSpec:
        """Describe a tensor as its receiver gets it."""
        return cls(tuple(value.shape), value.dtype, kept_strides(value))

    def empty(self, device: torch.device) -> Tensor:
        """Make a tensor without gaps for what is sent, its values as they come."""
        strides = dense_strides(self.shape, stride_order(self.strides))
        return torch.empty_strided(self.shape, strides, dtype=self.dtype, device=device)

    def spread(self, received: Tensor) -> Tensor:
        """Return what was received with the strides that it had; not copied where they have no gaps.

        Args:
            received: what `empty` made.
        """
        if received.stride() == self.strides:
            return received
        made = torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=received.device)
        return made.copy_(received)

    def numbers(self, edge: Edge) -> Tensor:
        """The description as it is sent: (SPEC_NUMBERS,) int64.

        Raises:
            RuntimeMismatchError: tensors of this type or of so many dimensions are not sent.
        """
        if self.dtype not in DTYPES or len(self.shape) > DIMENSIONS:
            raise RuntimeMismatchError(
                f"the value of {edge} is a {self.dtype} with {len(self.shape)} dimensions, wanted one of "
                f"{', '.join(map(str, DTYPES))} with at most {DIMENSIONS}; cut the program elsewhere"
            )
        fill = [0] * (DIMENSIONS - len(self.shape))
        return torch.tensor([DTYPES.index(self.dtype), len(self.shape), *self.shape, *fill, *self.strides, *fill])

    @classmethod
    def from_numbers(cls, numbers: Sequence[int], edge: Edge) -> TensorSpec:
        """Read what `numbers` gave.

        Raises:
            RuntimeMismatchError: it is no description.
        """
        kind, count = numbers[:2]
        shape, strides = numbers[2 : 2 + count], numbers[2 + DIMENSIONS : 2 + DIMENSIONS + count]
        if not (0 <= kind < len(DTYPES) and 0 <= count <= DIMENSIONS and min((*shape, *strides), default=0) >= 0):
            raise RuntimeMismatchError(f"what describes {edge} is damaged; run the same graphopt on all ranks")
        return cls(tuple(shape), DTYPES[kind], tuple(strides))

    def require(self, edge: Edge, batch: tuple[int, int]) -> None:
        """Compare with what the plan says of an edge; only the batch may differ.

        Args:
            edge: the edge.
            batch: rows of the inputs of this generation, and of the example inputs.

        Raises:
            RuntimeMismatchError: type, rank or a size is another.
        """
        found = f"found {str(self.dtype).removeprefix('torch.')} {[*self.shape]}"
        advice = "the plan was made for another model or other inputs; run partition on these, or give those"
        if str(self.dtype).removeprefix("torch.") != edge.dtype:
            raise RuntimeMismatchError(f"{edge}: {found}, wanted {edge.dtype}; {advice}")
        if not fits(self.shape, edge.shape, batch):
            rows = "" if batch[0] == batch[1] else f" for {batch[0]} rows instead of {batch[1]}"
            raise RuntimeMismatchError(f"{edge}: {found}, wanted the sizes {[*edge.shape]}{rows}; {advice}")
        extent = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)) + 1
        if 0 not in self.shape and not math.prod(self.shape) <= extent <= MOST_GAPS * math.prod(self.shape):
            raise RuntimeMismatchError(
                f"{edge}: {found} with the strides {[*self.strides]}, wanted fewer gaps; {advice}"
            )


def fits(found: Sequence[int], wanted: Sequence[int], batch: tuple[int, int]) -> bool:
    """Tell whether sizes are those of the example inputs, for another batch.

    Args:
        found: the sizes.
        wanted: the sizes on the example inputs.
        batch: rows now, and of the example inputs. Where they differ a size may be in their ratio to the wanted one,
            and dimension 0, which micro-batches cut in parts that need not be equal, is free.
    """
    rows, example = batch
    if len(found) != len(wanted):
        return False
    pairs = enumerate(zip(found, wanted, strict=True))
    return all(
        one == other or (rows != example and (dim == 0 or one * example == other * rows)) for dim, (one, other) in pairs
    )
