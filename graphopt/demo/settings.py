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
        passes: Text of the pipeline that prunes channels, with ``{importance}`` where the score goes.
        layers: Text of the pipeline that drops layers.
        cache: Text of the pipeline that caches.
        scores: The importance that is shown off, then those it is compared with.
        calibration_batches: Training batches that gradients are taken on.
        calibration_seed: Seeds those batches.
        recovery: How models with less in them are trained on, the same for all.
        sampling: How samples are drawn.
        timed_count: Images of the timed generations; under guidance a step has twice as many rows.
        timed_seed: Seeds their noise.
        rounds: How often a generation of each sampler is timed.
        threads: Threads for torch and for ONNX Runtime; None takes two where two cores are idle, else one.
    """

    model: DiTConfig = field(default_factory=DiTConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    passes: str = "prune-channels{{macs=0.5,importance={importance},scope=global,round_to=8,steps=4}}"
    layers: str = "prune-layers{count=1,importance=output-loss}"
    cache: str = "taylorseer{interval=3,layers=all}"
    scores: tuple[str, ...] = ("taylor", "random")
    calibration_batches: int = 16
    calibration_seed: int = 9
    recovery: TrainingConfig = field(default_factory=_recovery)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(steps=20))
    timed_count: int = 32
    timed_seed: int = 1_000
    rounds: int = 7
    threads: int | None = None

    def pipeline(self, score: str) -> str:
        """Return the text of the pipeline that prunes channels, with an importance in it.

        Args:
            score: Name of the importance.
        """
        return self.passes.format(importance=score)

    @property
    def together(self) -> str:
        """Text of the pipeline that drops layers and prunes channels; what it leaves is recovered, then cached."""
        return f"{self.layers},{self.pipeline(self.scores[0])}"
