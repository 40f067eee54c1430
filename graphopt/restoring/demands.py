"""What the numbers that a model's code passes have to be in the rewritten model."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.terms import Leaf
from graphopt.restoring.attention import CALL, attention_demands
from graphopt.restoring.matching import Match
from graphopt.restoring.recording import Call, Comparison, Source
from graphopt.restoring.solving import Demand
from graphopt.restoring.tracked import Size, Term, expression_of, places_in, sizes_in


@dataclass(frozen=True)
class Sizes:
    """What sizes of tensors will be.

    Attributes:
        calls: what the model called.
        matches: what became of each call.
        tensors: the parameters and buffers as they will be, by name.
    """

    calls: Sequence[Call]
    matches: Sequence[Match | None]
    tensors: Mapping[str, Tensor]

    def __call__(self, size: Size) -> int | None:
        """The size, None where the tensor is not known."""
        shape = self._shape((size.source, size.output))
        return None if shape is None or size.dim >= len(shape) else shape[size.dim]

    def _shape(self, source: Source | None) -> tuple[int, ...] | None:
        if source is None:
            return None
        place, output = source
        if isinstance(place, str):
            return tuple(self.tensors[place].shape) if place in self.tensors else None
        match = self.matches[place]
        if match is not None:
            return match.shapes[output]
        call = self.calls[place]
        return next((self._shape(held) for shape, held in call.operands if shape == call.shapes[output]), None)


def followed(calls: Sequence[Call], matches: Sequence[Match | None]) -> Iterator[Demand]:
    """Yield that numbers of calls that nothing reads, so that no node says what they are, follow their operands."""
    for call, match in zip(calls, matches, strict=True):
        if match is not None:
            continue
        for number in call.numbers:
            size = next(filter(None, (_size_of(int(number), shape, held) for shape, held in call.operands)), None)
            if size is not None and any(places_in(expression_of(number))):
                yield Demand(Term("-", expression_of(number), size), 0, 0, call, soft=True)


def trimmed(
    calls: Sequence[Call], matches: Sequence[Match | None], sizes: Sizes, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors that only calls read that nothing reads, cut to the last size of what they are applied to, by name.

    The class makes these calls all the same, so they have to run; what they give does not matter.

    Args:
        calls: what the model calls.
        matches: what became of each call.
        sizes: what sizes will be.
        tensors: the parameters and buffers as they will be, by name.
    """
    read = {name for call, match in zip(calls, matches, strict=True) if match for name in _names(call)}
    found: dict[str, Tensor] = {}
    for call, match in zip(calls, matches, strict=True):
        shape, source = call.operands[0] if call.operands else ((), None)
        if match is not None or source is None or not shape:
            continue
        now = sizes(Size(*source, len(shape) - 1)) or shape[-1]
        for name in _names(call):
            tensor = tensors.get(name)
            if name not in read and tensor is not None and tensor.ndim and tensor.shape[-1] == shape[-1] > now:
                found[name] = _narrowed(tensor, now)
    return found


def _names(call: Call) -> Iterator[str]:
    yield from (source[0] for _, source in call.operands if source is not None and isinstance(source[0], str))


def _narrowed(tensor: Tensor, size: int) -> Tensor:
    narrow = tensor.detach()[..., :size].clone()
    return nn.Parameter(narrow, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else narrow


def _size_of(number: int, shape: tuple[int, ...], source: Source | None) -> Size | None:
    """The last size of an operand that is a number."""
    if source is None or number not in shape:
        return None
    return Size(*source, len(shape) - 1 - shape[::-1].index(number))


def demands_of(matches: Sequence[Match | None], graph: DependencyGraph, counts: Mapping[Leaf, int]) -> Iterator[Demand]:
    """Yield what numbers have to be: a call's numbers are laid beside those of its nodes, in order.

    Args:
        matches: the calls and what became of them.
        graph: analysis of the captured program.
        counts: how many indices each leaf keeps.
    """
    for match in filter(None, matches):
        if match.call.name == CALL:
            yield from attention_demands(match, graph, counts)
        else:
            yield from _number_demands(match)


def _number_demands(match: Match) -> Iterator[Demand]:
    given, baked = match.call.numbers, match.numbers
    before = [one.before for one in baked]
    blocks = difflib.SequenceMatcher(None, [*map(int, given)], before, autojunk=False).get_matching_blocks()
    pairs = [(given[block.a + offset], baked[block.b + offset]) for block in blocks for offset in range(block.size)]
    for passed, number in pairs:
        expression = expression_of(passed)
        if number.dim is not None or any(places_in(expression)):
            soft = number.dim is None or number.before < 0
            yield Demand(expression, number.before, number.after, match.call, soft)


def equalities(comparisons: Sequence[Comparison]) -> Iterator[Demand]:
    """Yield that what was equal to the size of a tensor has to stay so."""
    for one in comparisons:
        expression = Term("-", expression_of(one.left), expression_of(one.right))
        if any(places_in(expression)) and any(sizes_in(expression)):
            yield Demand(expression, 0, 0, None, soft=True)
