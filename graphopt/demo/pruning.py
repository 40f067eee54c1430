"""The step that both demonstrations show: one call that prunes a model, and the proof that it did so rightly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import graphopt
from graphopt.pass_manager import PassContext, Result
from graphopt.program import Program
from graphopt.scores import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """A trained model and what is known about its use.

    Attributes:
        model: The model.
        args: Example positional inputs.
        calibration: Batches to take gradients on.
        loss: Of an output and the batch it came from.
        seed: Seed of every random choice.
    """

    model: nn.Module
    args: tuple[Any, ...]
    calibration: Sequence[Batch]
    loss: Callable[[Any, Batch], Tensor]
    seed: int = 0

    def capture(self) -> Program:
        """Capture the model."""
        return graphopt.capture(self.model, self.args)


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned model.

    Attributes:
        result: What the pipeline returned.
        error: The largest deviation that the proof of the rewrite found, relative to the effect of the removal.
    """

    result: Result
    error: float


def prune(workload: Workload, passes: str) -> Pruned:
    """Prune a model and prove the rewrite.

    Args:
        workload: The model, data and loss.
        passes: Text of the pipeline.

    Raises:
        BudgetError: The budget cannot be met.
        VerificationError: The pruned program is not what masking the removed units makes of the original.
    """
    context = PassContext(calibration=workload.calibration, loss=workload.loss, seed=workload.seed, verify=False)
    result = graphopt.optimize(workload.model, workload.args, passes=passes, context=context)
    # Verified here and not by the pipeline, for the sake of the error that is shown.
    report = graphopt.verify(workload.capture(), result)
    return Pruned(result, max(check.error for check in report.checks))
