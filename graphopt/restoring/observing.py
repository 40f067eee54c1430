"""One run of a model with integers that remember where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from torch import nn

from graphopt.assembly import named_attributes
from graphopt.capture_failure import Attempt, summary
from graphopt.errors import ModuleRestoreError
from graphopt.example_inputs import ExampleInputs
from graphopt.restoring.duplicate import duplicate
from graphopt.restoring.places import track
from graphopt.restoring.recording import Call, Comparison, Recorder, Run, record
from graphopt.restoring.tracked import Hashed, Place, told_apart


@dataclass(frozen=True)
class Observed:
    """What a model did.

    Attributes:
        numbers: every integer that its modules keep, by place.
        calls: what it called, in order.
        comparisons: numbers that its code found equal.
        runs: modules that it called, in the order in which they ended.
        hashed: whether numbers that were told apart from plain ones were looked up in a table.
    """

    numbers: Mapping[Place, int]
    calls: tuple[Call, ...]
    comparisons: tuple[Comparison, ...]
    runs: tuple[Run, ...]
    hashed: bool


def observe(model: nn.Module, inputs: ExampleInputs, *, apart: bool) -> Observed:
    """Run a model once, as a copy over its own tensors; where its code does not bear tracked sizes, without them.

    Args:
        model: left as it is.
        inputs: what it is called with.
        apart: whether tables tell the integers from plain ones, see `told_apart`.

    Raises:
        ModuleRestoreError: it does not run with integers of another class.
    """
    failure: Exception | None = None
    named = {id(one.value): name for name, one in named_attributes(model).items()}
    for names, gradients in ((named, False), (named, True), (None, False), (None, True)):
        shell = duplicate(model).eval()
        numbers, recorder = track(shell), Recorder(names, gradients=gradients)
        with Attempt() as attempt, told_apart() if apart else nullcontext(Hashed()) as hashed:
            record(shell, inputs, recorder)
            noted = tuple(recorder.calls), tuple(recorder.comparisons), tuple(recorder.runs)
            return Observed(numbers, *noted, hashed.any)
        failure = attempt.failed()
    raise ModuleRestoreError(
        f"{type(model).__name__} does not run with integers of a subclass of int, which tell where they came from: "
        f"{summary(failure or attempt.failed())}; result.module() without a model returns the graph form"
    ) from failure
