"""The regions of a program as plain data: branches, blocks, stacks, long skips and candidates for cuts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from graphopt.cuts import Cut
from graphopt.errors import GraphoptError
from graphopt.regions.costing import RegionCost
from graphopt.regions.kinds import BranchKind

CandidateKind = Literal["skip", "residual", "post-dominator", "given"]


@dataclass(frozen=True)
class Branch:
    """What a residual add adds to its base.

    Attributes:
        id: Such as ``branch.0``, in the order of execution.
        kind: What it computes: ``attention`` if its keys depend on the sample, ``cross-attention`` if they do not.
        base: Value that goes around the branch; bypassing the branch puts it in the place of the add.
        value: The add's other operand.
        ungated: The value before it was multiplied by gates that the branch did not compute itself.
        add: The residual add.
        nodes: Operators that nothing needs once the branch is bypassed, the add included.
        module: Dotted path of the user's module that does the branch's products, empty where it is not known.
        key: Equal for branches of equal structure and shapes.
        cost: Cost of its nodes.
    """

    id: str
    kind: BranchKind
    base: str
    value: str
    ungated: str
    add: str
    nodes: tuple[str, ...]
    module: str
    key: str
    cost: RegionCost


@dataclass(frozen=True)
class Block:
    """A stretch of the trunk between two boundaries.

    Attributes:
        id: Such as ``block.0``, in the order of execution.
        inputs: Streams that enter. In a bypassable block they match the outputs one by one; a stream that ends in the
            block is left out then.
        outputs: Streams that leave.
        nodes: Operators that nothing needs once the outputs come from elsewhere while the inputs stay.
        module: Dotted path of the user's module that holds the block's weights, empty where it is not known.
        key: Equal for blocks of equal structure and shapes.
        cost: Cost of its nodes.
        bypassable: Whether every output has an input of its own of the same shape and type.
    """

    id: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    module: str
    key: str
    cost: RegionCost
    bypassable: bool


@dataclass(frozen=True)
class Stream:
    """A value at a boundary of a stack.

    Attributes:
        name: The value.
        shape: Its shape on the example inputs.
        dtype: Its type.
        lane: Number of the stream it belongs to, the same at every boundary.
        parts: Slices of it that are read after the boundary, where nothing else of it is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    lane: int
    parts: tuple[Stream, ...] = ()


@dataclass(frozen=True)
class Stack:
    """Consecutive blocks.

    Attributes:
        id: Such as ``stack.0``, most multiply-accumulates first.
        blocks: Ids of the N blocks.
        boundaries: Names of the streams at each of the N + 1 boundaries; block i runs from boundary i to i + 1.
        cost: Cost of all its blocks.
        streams: The streams with their shapes, by boundary.
    """

    id: str
    blocks: tuple[str, ...]
    boundaries: tuple[tuple[str, ...], ...]
    cost: RegionCost
    streams: tuple[tuple[Stream, ...], ...] = field(repr=False)

    def residual_cuts(self, first: int, last: int) -> tuple[Cut, ...]:
        """Return the residual cuts that skip the blocks from boundary `first` to boundary `last`, one a stream.

        Where the last boundary joins several streams of the first one, the slices that are read on are cut in its
        place. A stream that is not read on after the last boundary has no cut.

        Raises:
            GraphoptError: There are no such boundaries, or a stream has no counterpart of its shape.
        """
        if not 0 <= first < last < len(self.boundaries):
            raise GraphoptError(
                f"found boundaries {first} and {last} of {self.id}, wanted 0 <= first < last <= {len(self.blocks)}"
            )
        free = list(self.streams[first])
        cuts: list[Cut] = []
        for stream in self.streams[last]:
            pieces = [stream] if any(_alike(stream, base) for base in free) else stream.parts or [stream]
            cuts += [Cut(piece.name, self._base(piece, free, first, last)) for piece in pieces]
        return tuple(cuts)

    def _base(self, stream: Stream, free: list[Stream], first: int, last: int) -> str:
        bases = sorted((base for base in free if _alike(stream, base)), key=lambda base: base.lane != stream.lane)
        base = bases[0] if bases else None
        if base is None:
            shapes = ", ".join(f"{other.name} {list(other.shape)}" for other in self.streams[first]) or "nothing"
            raise GraphoptError(
                f"found {shapes} at boundary {first} of {self.id}, wanted a value of shape {list(stream.shape)} for "
                f"{stream.name} of boundary {last}; a residual cut runs between boundaries of the same shapes"
            )
        free.remove(base)
        return base.name


@dataclass(frozen=True)
class Skip:
    """A long skip: a concatenation of a deep value with a shallow one that it was computed from.

    Attributes:
        id: Such as ``skip.0``, the last of the program first, as depths of DeepCache (arXiv 2312.00858) are counted.
        concat: The concatenation.
        main: Its operand from the deep path.
        skip: Its operand from the shallow path.
        module: Dotted path of the user's module that concatenates, empty where it is not known.
    """

    id: str
    concat: str
    main: str
    skip: str
    module: str


@dataclass(frozen=True)
class CutCandidate:
    """Cuts that could be made together, and what they would save.

    Attributes:
        id: Such as ``cut.0``, most multiply-accumulates saved first; empty for cuts that were asked about.
        cuts: The cuts.
        kind: Where they come from: the deep operand of a long skip, the streams at two boundaries of a stack, or a
            value that everything it was computed from is read through.
        macs_saved: Multiply-accumulates of the nodes that die.
        parameters_saved: Weights that nothing reads any more.
        cache_bytes: Bytes of the cached values.
        seconds_saved: Measured time of the nodes that die, None where it was not measured.
    """

    id: str
    cuts: tuple[Cut, ...]
    kind: CandidateKind
    macs_saved: int
    parameters_saved: int
    cache_bytes: int
    seconds_saved: float | None


def _alike(left: Stream, right: Stream) -> bool:
    return left.shape == right.shape and left.dtype == right.dtype
