"""Which axis of a program is spread over parts: the one named, or the one that divides most of the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from graphopt.errors import PreconditionError
from graphopt.rewrite.sharding.layout import Layout
from graphopt.rewrite.sharding.ranges import even_parts
from graphopt.rewrite.sharding.spreading import Spread, Spreader
from graphopt.values import is_symbolic, value_of

WORTHWHILE = 0.002
"""Least share of the work that a further axis, or parts that end at coarser steps, must add."""

HALF = 0.5
"""Share of the work below which other ends of parts are tried for every axis."""


@dataclass(frozen=True)
class Axis:
    """A dimension at which an axis enters a program.

    Attributes:
        value: name of an input, or of another value.
        dim: its dimension.
        grain: number that the sizes of all parts are multiples of.
    """

    value: str
    dim: int
    grain: int = 1

    def __str__(self) -> str:
        """Return the text that names it."""
        return f"{self.value}:{self.dim}" + (f"/{self.grain}" if self.grain > 1 else "")


def read_axes(text: str) -> tuple[Axis, ...]:
    """Read the text of one or several axes, such as ``hidden_states:2`` or ``sample:2/8,text:1``.

    Raises:
        PreconditionError: it is no such text.
    """
    try:
        return tuple(_read_axis(item) for item in text.split(","))
    except ValueError as error:
        raise PreconditionError(
            f"found the axis {text!r}, wanted an input or value, a colon and a dimension, as in hidden_states:1; a "
            "further one follows after a comma, and /8 lets parts end at multiples of 8"
        ) from error


def _read_axis(text: str) -> Axis:
    value, _, place = text.strip().rpartition(":")
    dim, _, grain = place.partition("/")
    if not value:
        raise ValueError(text)
    return Axis(value, int(dim), int(grain or 1))


def seeds(spreader: Spreader, axes: Sequence[Axis]) -> dict[fx.Node, Layout]:
    """Return how the values are cut at which axes enter.

    Raises:
        PreconditionError: there is no such value or dimension, or it cannot be cut into so many parts.
    """
    by_name = {node.name: node for node in spreader.nodes}
    found: dict[fx.Node, Layout] = {}
    for axis in axes:
        node = by_name.get(axis.value)
        if node is None or not isinstance(value_of(node), Tensor) or node in spreader.free:
            inputs = [node.name for node in spreader.nodes if node.op == "placeholder"]
            raise PreconditionError(f"found no tensor {axis.value} in the program; its inputs are {', '.join(inputs)}")
        found[node] = _layout(node, axis, spreader.parts)
    return found


def _layout(node: fx.Node, axis: Axis, parts: int) -> Layout:
    shape = value_of(node).shape
    if not -len(shape) <= axis.dim < len(shape) or is_symbolic(shape[axis.dim]):
        raise PreconditionError(
            f"{axis.value} has the shape {[*map(str, shape)]}, wanted a dimension of fixed size; found {axis.dim}"
        )
    dim, size = axis.dim % len(shape), int(shape[axis.dim])
    if axis.grain < 1 or size % axis.grain or size // axis.grain < parts:
        raise PreconditionError(
            f"dimension {dim} of {axis.value} has {size} indices, which cannot be cut into {parts} parts of multiples "
            f"of {axis.grain}; take fewer parts"
        )
    return Layout(dim, size, even_parts(size, parts, axis.grain))


def choose(spreader: Spreader) -> tuple[Axis, ...]:
    """Find the axis under which most of the work is divided, and further ones that divide more of it.

    Where no axis divides half of it, parts that end at multiples of more indices are tried, as windows need that a
    view tells.

    Raises:
        PreconditionError: no axis divides any work.
    """
    shares = {axis: _share(spreader, (axis,)) for axis in _candidates(spreader)}
    if shares and max(shares.values()) < HALF:
        shares |= {axis: _share(spreader, (axis,)) for fine in list(shares) for axis in _coarser(spreader, fine)}
    chosen: tuple[Axis, ...] = ()
    best = 0.0
    for axis, alone in sorted(shares.items(), key=lambda item: -item[1]):
        if any(axis.value == other.value for other in chosen):
            continue
        together = alone if not chosen else _share(spreader, (*chosen, axis))
        if together > best + WORTHWHILE:
            chosen, best = (*chosen, axis), together
    if not chosen:
        raise PreconditionError(_why_not(spreader, [axis for axis in shares if axis.grain == 1]))
    return _aligned(spreader, chosen, best)


def _share(spreader: Spreader, axes: Sequence[Axis]) -> float:
    return spreader.spread(seeds(spreader, axes)).share


def _candidates(spreader: Spreader) -> Iterator[Axis]:
    """Dimensions of inputs behind the first, which is the batch, long enough to be cut."""
    for node in spreader.nodes:
        value = value_of(node)
        if node.op != "placeholder" or not isinstance(value, Tensor):
            continue
        for dim, size in enumerate(value.shape):
            if dim and not is_symbolic(size) and int(size) >= spreader.parts:
                yield Axis(node.name, dim)


def _coarser(spreader: Spreader, axis: Axis) -> Iterator[Axis]:
    """The axis with parts that end at multiples of 2, 4, 8 and so on, as far as these divide it."""
    size = next(iter(seeds(spreader, (axis,)).values())).size
    grain = 2 * axis.grain
    while grain * spreader.parts <= size and size % grain == 0:
        yield Axis(axis.value, axis.dim, grain)
        grain *= 2


def _aligned(spreader: Spreader, axes: tuple[Axis, ...], share: float) -> tuple[Axis, ...]:
    """Let parts of the first axis end at multiples of more indices where that divides more of the work."""
    best = share
    for coarser in _coarser(spreader, axes[0]):
        found = _share(spreader, (coarser, *axes[1:]))
        if found > best + WORTHWHILE:
            axes, best = (coarser, *axes[1:]), found
    return axes


def _why_not(spreader: Spreader, axes: Sequence[Axis]) -> str:
    if not axes:
        return (
            f"found no input with a dimension behind the batch that has {spreader.parts} indices, so there is nothing "
            "to split; take fewer parts, or another mode"
        )
    reasons = {str(axis): _first_reason(spreader.spread(seeds(spreader, (axis,)))) for axis in axes}
    told = "; ".join(f"{axis}: {reason}" for axis, reason in reasons.items())
    return f"found no axis along which work can be divided ({told}); take another mode, such as pipeline"


def _first_reason(spread: Spread) -> str:
    return f"{spread.gathered[0][0]}: {spread.gathered[0][1]}" if spread.gathered else "nothing reads it"
