"""One run of a model with integers that remember where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from graphopt.assembly import named_attributes
from graphopt.capture_failure import Attempt, summary
from graphopt.errors import ModuleRestoreError
from graphopt.example_inputs import ExampleInputs
from graphopt.restoring.duplicate import duplicate
from graphopt.restoring.places import track
from graphopt.restoring.recording import Call, Comparison, Recorder, Run, record
from graphopt.restoring.tracked import Place


@dataclass(frozen=True)
class Observed:
    """What a model did.

    Attributes:
        numbers: every integer that its modules keep, by place.
        calls: what it called, in order.
        comparisons: numbers that its code found equal.
        runs: modules that it called, in the order in which they ended.
    """

    numbers: Mapping[Place, int]
    calls: tuple[Call, ...]
    comparisons: tuple[Comparison, ...]
    runs: tuple[Run, ...]


def observe(model: nn.Module, inputs: ExampleInputs) -> Observed:
    """Run a model once, as a copy over its own tensors; where its code does not bear tracked sizes, without them.

    Args:
        model: left as it is.
        inputs: what it is called with.

    Raises:
        ModuleRestoreError: it does not run with integers of another class.
    """
    failure: Exception | None = None
    for names in ({id(one.value): name for name, one in named_attributes(model).items()}, None):
        shell = duplicate(model).eval()
        numbers, recorder = track(shell), Recorder(names)
        with Attempt() as attempt:
            record(shell, inputs, recorder)
            return Observed(numbers, tuple(recorder.calls), tuple(recorder.comparisons), tuple(recorder.runs))
        failure = attempt.failed()
    raise ModuleRestoreError(
        f"{type(model).__name__} does not run with integers of a subclass of int, which tell where they came from: "
        f"{summary(failure or attempt.failed())}; result.module() without a model returns the graph form"
    ) from failure
