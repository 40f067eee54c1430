"""Models with channels or layers left out, proved, and trained on until they are good again."""

from dataclasses import dataclass

from graphopt.demo.diffusion import TrainingConfig, train
from graphopt.demo.digits import LabelledImages
from graphopt.demo.pruning import Workload, prune
from graphopt.demo.quality import Judge
from graphopt.pass_manager import PassContext, Pipeline, Result
from graphopt.program import Program


@dataclass(frozen=True, kw_only=True, eq=False)
class Recovered:
    """A model with something left out, and its loss on held-out digits before and after it was trained on.

    Attributes:
        program: The recovered model.
        error: The largest deviation that the proof of the rewrite found, relative to the effect of the removal.
        loss_before: Loss straight after the removal.
        loss: Loss after recovery.
    """

    program: Program
    error: float
    loss_before: float
    loss: float


def recover(
    work: Workload, passes: str, data: LabelledImages, judge: Judge, recovery: TrainingConfig, name: str
) -> Recovered:
    """Leave out parts of a model, prove the rewrite and train what remains.

    Args:
        work: The model, data and loss.
        passes: Text of the pipeline.
        data: Images to train on.
        judge: Takes the loss.
        recovery: Steps, rates and seed.
        name: What the progress bar calls it.

    Raises:
        BudgetError: The budget cannot be met.
        VerificationError: The rewritten program is not what masking the removed units makes of the original.
    """
    pruned = prune(work, passes)
    module = pruned.result.module().eval()
    before = judge.held_out_loss(module)
    train(module, data, recovery, f"recovering ({name})")
    return Recovered(
        program=pruned.result.program, error=pruned.error, loss_before=before, loss=judge.held_out_loss(module)
    )


def cached(program: Program, passes: str) -> Result:
    """Cache a model; its schedule is static, so that nothing is calibrated.

    Args:
        program: The model.
        passes: Text of the pipeline.
    """
    return Pipeline(passes).run(program, PassContext())
