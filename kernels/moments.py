"""Mean and centred sum of squares of channels and of groups of channels, merged in a fixed order.

Chan's formula merges the moments of two sets of numbers into those of their union without looking at the numbers
again: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.library import wrap_triton

from graphopt.kernels.language import jit, tl, triton
from graphopt.kernels.launch import Choice, tuned

MERGED = 8192
"""How many channels times pieces of the space one program merges at most."""

ROWS = tuple(
    Choice((("block_c", 1), ("block_s", length)), num_warps=warps)
    for length, warps in ((1024, 4), (2048, 4), (4096, 4), (4096, 8))
)
"""Tiles for tensors whose space is contiguous."""

COLUMNS = tuple(Choice((("block_c", width), ("block_s", length))) for width, length in ((32, 64), (64, 32), (64, 64)))
"""Tiles for tensors whose channels are contiguous."""


@dataclass(frozen=True)
class Moments:
    """What is known of the channels of one tensor.

    Attributes:
        values: mean and centred sum of squares, (N, pieces, C, 2), float32.
        piece: positions of the space that one piece spans; the last one may be shorter.
    """

    values: Tensor
    piece: int


@dataclass(frozen=True)
class Strided:
    """A tensor (N, C, ...) and the steps in memory from sample to sample, channel to channel, position to position."""

    tensor: Tensor
    steps: tuple[int, int, int]

    @property
    def is_row(self) -> bool:
        """Whether the positions of a channel lie side by side."""
        return self.steps[2] == 1


def strided(tensor: Tensor) -> Strided | None:
    """Read a tensor's space as one dimension; None where its memory does not allow that."""
    step = 1
    expected = None
    for size, stride in zip(reversed(tensor.shape[2:]), reversed(tensor.stride()[2:]), strict=True):
        if size == 1:
            continue
        if expected is None:
            step = stride
        elif stride != expected:
            return None
        expected = stride * size
    return Strided(tensor, (tensor.stride(0), tensor.stride(1), step))


def space_of(tensor: Tensor) -> int:
    """How many positions a tensor (N, C, ...) has in space."""
    count = 1
    for size in tensor.shape[2:]:
        count *= size
    return count


def channel_moments(first: Strided, second: Strided | None, members: int) -> tuple[Moments, Moments | None]:
    """Take the moments of every channel of one or two tensors (N, C, ...) in one launch.

    Args:
        first: one tensor.
        second: another one with the same samples and space, or None.
        members: channels of a group: bounds the number of pieces, so that one program can merge them.
    """
    other = first if second is None else second
    samples, space = first.tensor.shape[0], space_of(first.tensor)
    rows = first.is_row and other.is_row
    most = max(1, min(64, MERGED // triton.next_power_of_2(members)))
    piece = max(32768 if rows else 256, (space + most - 1) // most)
    pieces = (space + piece - 1) // piece
    widths = (first.tensor.shape[1], 0 if second is None else second.tensor.shape[1])
    found = [first.tensor.new_empty((samples, pieces, max(width, 1), 2), dtype=torch.float32) for width in widths]
    kernel = wrap_triton(_row_moments if rows else _column_moments)
    kernel[lambda meta: (samples * sum(triton.cdiv(width, meta["block_c"]) for width in widths), pieces)](
        first.tensor, other.tensor, *found, *widths, space, pieces, piece, *first.steps, *other.steps
    )
    return Moments(found[0], piece), None if second is None else Moments(found[1], piece)


def merge_moments(first: Moments, second: Moments, widths: tuple[int, int], members: int, space: int) -> Tensor:
    """Merge the moments of channels into those of groups, (N, groups, 2).

    Args:
        first: of the tensor whose channels come first.
        second: of the other one; anything where its width is 0.
        widths: channels of both.
        members: channels of a group, which may lie in both.
        space: positions in space.
    """
    samples, groups = first.values.shape[0], sum(widths) // members
    pieces = int(max(first.values.shape[1], second.values.shape[1]))
    found = first.values.new_empty((samples, groups, 2))
    wrap_triton(_merge)[(samples * groups,)](
        first.values, second.values, found, groups, *widths, members, space, *_pieces(first), *_pieces(second),
        block_m=triton.next_power_of_2(members), block_p=triton.next_power_of_2(pieces),
    )  # fmt: skip
    return found


def _pieces(moments: Moments) -> tuple[int, int]:
    """Number and length of the pieces."""
    return moments.values.shape[1], moments.piece


@jit
def _tile_moments(
    x: tl.tensor,
    channel: tl.tensor,
    width: tl.tensor,
    step_c: tl.tensor,
    step_s: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    block_c: tl.constexpr,
    block_s: tl.constexpr,
) -> tl.tensor:
    """Moments of a block of channels over the positions from first to last."""
    mean = tl.zeros([block_c], tl.float32)
    squares = tl.zeros([block_c], tl.float32)
    row = x + channel.to(tl.int64)[:, None] * step_c
    for start in range(first, last, block_s):
        at = start + tl.arange(0, block_s)
        inside = (channel < width)[:, None] & (at < last)[None, :]
        tile = tl.load(row + at.to(tl.int64)[None, :] * step_s, mask=inside, other=0.0).to(tl.float32)
        size = tl.minimum(last - start, block_s).to(tl.float32)
        seen = (start - first).to(tl.float32)
        tile_mean = tl.sum(tile, 1) / size
        centred = tl.where(inside, tile - tile_mean[:, None], 0.0)
        change = tile_mean - mean
        mean += change * (size / (seen + size))
        squares += tl.sum(centred * centred, 1) + change * change * (seen * size / (seen + size))
    return mean, squares


@jit
def _write_moments(
    x: tl.tensor,
    out: tl.tensor,
    block: tl.tensor,
    sample: tl.tensor,
    piece: tl.tensor,
    width: tl.tensor,
    space: tl.tensor,
    pieces: tl.tensor,
    length: tl.tensor,
    step_n: tl.tensor,
    step_c: tl.tensor,
    step_s: tl.tensor,
    block_c: tl.constexpr,
    block_s: tl.constexpr,
) -> None:
    channel = block * block_c + tl.arange(0, block_c)
    first = piece * length
    last = tl.minimum(first + length, space)
    sample = sample.to(tl.int64)
    mean, squares = _tile_moments(
        x + sample * step_n, channel, width, step_c, step_s, first, last, block_c, block_s
    )  # fmt: skip
    at = out + 2 * ((sample * pieces + piece) * width + channel)
    tl.store(at, mean, mask=channel < width)
    tl.store(at + 1, squares, mask=channel < width)


@jit
def _moments(
    x: tl.tensor,
    y: tl.tensor,
    x_out: tl.tensor,
    y_out: tl.tensor,
    x_width: tl.tensor,
    y_width: tl.tensor,
    space: tl.tensor,
    pieces: tl.tensor,
    length: tl.tensor,
    x_step_n: tl.tensor,
    x_step_c: tl.tensor,
    x_step_s: tl.tensor,
    y_step_n: tl.tensor,
    y_step_c: tl.tensor,
    y_step_s: tl.tensor,
    block_c: tl.constexpr,
    block_s: tl.constexpr,
) -> None:
    x_blocks = tl.cdiv(x_width, block_c)
    blocks = x_blocks + tl.cdiv(y_width, block_c)
    sample = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    piece = tl.program_id(1)
    if block < x_blocks:
        _write_moments(
            x, x_out, block, sample, piece, x_width, space, pieces, length, x_step_n, x_step_c, x_step_s,
            block_c, block_s,
        )  # fmt: skip
    else:
        _write_moments(
            y, y_out, block - x_blocks, sample, piece, y_width, space, pieces, length, y_step_n, y_step_c, y_step_s,
            block_c, block_s,
        )  # fmt: skip


_row_moments = tuned(ROWS, key=("space", "x_width", "y_width"))(_moments)
_column_moments = tuned(COLUMNS, key=("space", "x_width", "y_width"))(_moments)


@jit
def group_moments(
    x: tl.tensor,
    y: tl.tensor,
    sample: tl.tensor,
    group: tl.tensor,
    x_width: tl.tensor,
    y_width: tl.tensor,
    members: tl.tensor,
    space: tl.tensor,
    x_pieces: tl.tensor,
    x_length: tl.tensor,
    y_pieces: tl.tensor,
    y_length: tl.tensor,
    block_m: tl.constexpr,
    block_p: tl.constexpr,
) -> tl.tensor:
    """Mean and variance of one group of one sample, from the moments of its channels; x holds the first ones."""
    member = tl.arange(0, block_m)
    channel = group * members + member
    piece = tl.arange(0, block_p)
    in_x = ((member < members) & (channel < x_width))[:, None] & (piece < x_pieces)[None, :]
    in_y = ((member < members) & (channel >= x_width))[:, None] & (piece < y_pieces)[None, :]
    x_at = x + 2 * ((sample * x_pieces + piece)[None, :] * x_width + channel[:, None])
    y_at = y + 2 * ((sample * y_pieces + piece)[None, :] * y_width + (channel - x_width)[:, None])
    mean = tl.where(in_x, tl.load(x_at, mask=in_x, other=0.0), tl.load(y_at, mask=in_y, other=0.0))
    squares = tl.where(in_x, tl.load(x_at + 1, mask=in_x, other=0.0), tl.load(y_at + 1, mask=in_y, other=0.0))
    x_count = tl.minimum(space - piece * x_length, x_length)[None, :]
    y_count = tl.minimum(space - piece * y_length, y_length)[None, :]
    count = tl.where(in_x, x_count, tl.where(in_y, y_count, 0)).to(tl.float32)
    total = space * 1.0 * members
    centre = tl.sum(tl.sum(mean * count, 1), 0) / total
    change = mean - centre
    return centre, tl.sum(tl.sum(squares + count * change * change, 1), 0) / total


@tuned((Choice((), num_warps=4),), key=())
@jit
def _merge(
    x: tl.tensor,
    y: tl.tensor,
    out: tl.tensor,
    groups: tl.tensor,
    x_width: tl.tensor,
    y_width: tl.tensor,
    members: tl.tensor,
    space: tl.tensor,
    x_pieces: tl.tensor,
    x_length: tl.tensor,
    y_pieces: tl.tensor,
    y_length: tl.tensor,
    block_m: tl.constexpr,
    block_p: tl.constexpr,
) -> None:
    sample = (tl.program_id(0) // groups).to(tl.int64)
    mean, variance = group_moments(
        x, y, sample, tl.program_id(0) % groups, x_width, y_width, members, space,
        x_pieces, x_length, y_pieces, y_length, block_m, block_p,
    )  # fmt: skip
    tl.store(out + 2 * tl.program_id(0), mean)
    tl.store(out + 2 * tl.program_id(0) + 1, variance)
