"""What the demonstration on the diffusion transformer can be told."""

from dataclasses import dataclass, field

from graphopt.demo.classifier import ClassifierConfig
from graphopt.demo.diffusion import SamplingConfig, TrainingConfig
from graphopt.demo.model import DiTConfig


def _recovery() -> TrainingConfig:
    return TrainingConfig(steps=150, learning_rate=1e-3, warm_up=10, average=0.98, seed=1)


@dataclass(frozen=True, kw_only=True)
class DitDemo:
    """Sizes, steps, seeds and threads of the demonstration.

    Attributes:
        model: Sizes of the diffusion transformer.
        training: How it is trained.
        classifier: The judge of its samples.
        passes: Text of the pipeline, with ``{importance}`` where the score goes.
        scores: The importance that is shown off, then those it is compared with.
        calibration_batches: Training batches that gradients are taken on.
        calibration_seed: Seeds those batches.
        recovery: How pruned models are trained on, the same for every score.
        sampling: How samples are drawn.
        batch_size: Batch of the timed calls.
        rounds: How often each call is timed.
        threads: Threads for torch and for ONNX Runtime; None takes two where two cores are idle, else one.
    """

    model: DiTConfig = field(default_factory=DiTConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    passes: str = "prune-channels{{macs=0.5,importance={importance},scope=global,round_to=8,steps=4}}"
    scores: tuple[str, ...] = ("taylor", "random")
    calibration_batches: int = 16
    calibration_seed: int = 9
    recovery: TrainingConfig = field(default_factory=_recovery)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    batch_size: int = 64
    rounds: int = 30
    threads: int | None = None

    def pipeline(self, score: str) -> str:
        """Return the text of the pipeline with an importance in it.

        Args:
            score: Name of the importance.
        """
        return self.passes.format(importance=score)
