"""Which calls of a run lead to a value, through memory that several tensors share as well."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from graphopt.recording import Call, Ref, refs_in, written_to


class RecordedPaths:
    """Looks backward through the calls of a run.

    Args:
        calls: In order, with their results.
        given: What there was before, with its stand-ins.
    """

    def __init__(self, calls: Sequence[Call], given: Iterable[tuple[Any, Any]] = ()) -> None:
        self._calls = calls
        self._memory: dict[Ref, int] = {}
        for ref, stand_in in given:
            self._memory |= _memory_of(ref, stand_in)
        for call in calls:
            self._memory |= _memory_of(call.refs, call.result)

    def leading_to(self, call: Call, place: int) -> list[int]:
        """Return the places of the calls that decide what a call reads, ascending.

        Args:
            call: Reads tensors of the run.
            place: How many calls of the run precede it.
        """
        wanted = set(refs_in((call.args, call.kwargs)))
        memory = self._memory_at(wanted)
        found = []
        for earlier in range(place - 1, -1, -1):
            made = self._calls[earlier]
            if wanted.isdisjoint(refs_in(made.refs)) and memory.isdisjoint(self._memory_at(written_in(made))):
                continue
            found.append(earlier)
            operands = set(refs_in((made.args, made.kwargs)))
            wanted |= operands
            memory |= self._memory_at(operands)
        return found[::-1]

    def writes_to(self, call: Call, refs: Iterable[Ref]) -> bool:
        """Tell whether a call writes to the memory of some tensors."""
        return not self._memory_at(refs).isdisjoint(self._memory_at(written_in(call)))

    def _memory_at(self, refs: Iterable[Ref]) -> set[int]:
        return {self._memory[ref] for ref in refs if ref in self._memory}


def written_in(call: Call) -> Iterator[Ref]:
    """Yield the tensors that a call writes to."""
    for value in written_to(call.target, call.args, call.kwargs):
        yield from refs_in(value)


def _memory_of(refs: Any, result: Any) -> dict[Ref, int]:
    if isinstance(refs, Ref) and isinstance(result, torch.Tensor):
        return {refs: result.untyped_storage()._cdata}
    found: dict[Ref, int] = {}
    if isinstance(refs, list) and isinstance(result, list | tuple):
        for ref, item in zip(refs, result, strict=True):
            found |= _memory_of(ref, item)
    return found
