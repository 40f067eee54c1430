"""Where a smaller model first computes something else than its program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphopt.capture_failure import Attempt
from graphopt.program import Program
from graphopt.proof.check import inputs_of
from graphopt.restoring.constants import keys_of
from graphopt.restoring.duplicate import duplicate
from graphopt.restoring.matching import Match
from graphopt.restoring.recording import Call, Recorder, Shapes, Source, record
from graphopt.running import values_apart

CLOSE = 1e-3
"""Largest difference of what counts as the same, as a share of the largest magnitude."""


def first_difference(
    model: nn.Module, program: Program, calls: Sequence[Call], matches: Sequence[Match | None]
) -> Call | None:
    """The first call that is given what the program has there, and returns something else; None where there is none.

    Args:
        model: the smaller model; it is left as it is.
        program: what it should compute.
        calls: what the user's model calls.
        matches: what became of each call.
    """
    shell, trial = duplicate(model).eval(), _Results()
    with Attempt():
        record(shell, inputs_of(program), trial)
    known = {name: tensor for name, tensor in shell.named_parameters() if name in program.parameters}
    same = {name for name, held in known.items() if _close(held, program.parameters[name])}
    values = {node.name: value for node, value in values_apart(program).items()}
    made = dict(zip(keys_of(trial.calls), zip(trial.calls, trial.results, strict=False), strict=False))
    agreed: set[int] = set()
    for place, (key, match) in enumerate(zip(keys_of(calls), matches, strict=True)):
        if key not in made:
            continue
        agrees = _agrees(calls[place], match, *made[key], values)
        given = all(_is_given(source, agreed, same) for _, source in calls[place].operands)
        if given and not agrees:
            return calls[place]
        if given and agrees:
            agreed.add(place)
    return None


class _Results(Recorder):
    """Also keeps what the calls return."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Any] = []

    def _write(self, func: Any, args: Any, kwargs: Any, shapes: Shapes) -> None:
        super()._write(func, args, kwargs, shapes)
        self.results.append(None)

    def _note(self, result: Any) -> None:
        super()._note(result)
        self.results[-1] = result.detach().clone() if isinstance(result, Tensor) else None


def _agrees(before: Call, match: Match | None, after: Call, result: Any, values: Mapping[str, Any]) -> bool:
    """Tell whether a call does what the program does; of one without an operator, whether it is given the same."""
    value = None if match is None else values.get(match.nodes[-1].name)
    if isinstance(value, Tensor) and isinstance(result, Tensor):
        return _close(result, value)
    return bool(before.operands) or (before.numbers, before.floats) == (after.numbers, after.floats)


def _is_given(source: Source | None, agreed: set[int], same: set[str]) -> bool:
    """Tell whether an operand is what it is in the program."""
    if source is None:
        return True
    return source[0] in same if isinstance(source[0], str) else source[0] in agreed


def _close(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    if not found.is_floating_point() or not found.numel():
        return torch.equal(found, wanted)
    return bool((found - wanted).abs().max() <= CLOSE * wanted.abs().max())
