"""How a tensor that an optimizer keeps for a parameter lies over it, told from their shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

Kept = Mapping[int, Sequence[int]]
"""Kept indices by dimension of the parameter; dimensions left out stay whole."""

LEFT_OUT = {"row": -1, "col": -2}
"""The dimension that factors of a matrix leave out, by a word in their name: Adafactor's have one number a row or
column."""


class UnknownShapeError(Exception):
    """The place of a tensor's elements in the parameter cannot be told."""


def sliced_state(state: Tensor, key: str, shape: Sequence[int], kept: Kept) -> Tensor:
    """Return what is left of a tensor that an optimizer keeps for a parameter; itself where nothing goes.

    Args:
        state: Of the parameter's shape, of that with sizes of 1 or with one dimension left out, or a single number.
        key: What the optimizer calls it, such as ``exp_avg``.
        shape: The parameter's.
        kept: What is kept of the parameter.

    Raises:
        UnknownShapeError: Its shape does not tell where its elements belong.
    """
    if state.ndim == 0 or (state.numel() == 1 and tuple(state.shape) != tuple(shape)):
        return state
    fitting = [dims for dims in _arrangements(state.ndim, len(shape), key) if _fits(state, shape, dims)]
    choices = [
        {place: kept[dim] for place, dim in enumerate(dims) if _goes(state, place, dim, kept)} for dims in fitting
    ]
    if not choices or any(choice != choices[0] for choice in choices):
        fits = "more than one part" if choices else "no part"
        raise UnknownShapeError(f"{key} is {list(state.shape)}, which fits {fits} of {list(shape)}")
    for place, indices in choices[0].items():
        state = state.index_select(place, torch.tensor(indices, device=state.device))
    return state


def _arrangements(ndim: int, rank: int, key: str) -> Iterator[tuple[int, ...]]:
    """Yield the parameter's dimensions that those of the state may run along; one that its name tells is the only."""
    if ndim == rank:
        yield tuple(range(rank))
        return
    if ndim != rank - 1:
        return
    named = [rank + dim for word, dim in LEFT_OUT.items() if word in key and rank >= 2]
    for left_out in named or range(rank):
        yield tuple(dim for dim in range(rank) if dim != left_out)


def _fits(state: Tensor, shape: Sequence[int], dims: Sequence[int]) -> bool:
    return all(size in (1, shape[dim]) for size, dim in zip(state.shape, dims, strict=True))


def _goes(state: Tensor, place: int, dim: int, kept: Kept) -> bool:
    return dim in kept and state.shape[place] > 1
