"""What the demonstration on the sentence encoder can be told."""

from dataclasses import dataclass, field

from graphopt.demo.distillation import DistillationConfig


@dataclass(frozen=True)
class Choice:
    """One way to prune the encoder.

    Attributes:
        macs: Share of the multiply-accumulates that may remain.
        importance: Name of the score.
    """

    macs: float
    importance: str

    def __str__(self) -> str:
        return f"{self.importance} {self.macs:.0%}"


@dataclass(frozen=True, kw_only=True)
class MiniLmDemo:
    """Sizes, steps, seeds and threads of the demonstration.

    Attributes:
        passes: Text of the pipeline, with ``{macs}`` and ``{importance}`` where a choice goes.
        shown: The choices that are shown off.
        baseline: What the first of them is compared with: another score at its budget.
        length: Tokens a sentence is cut or padded to.
        train: Sentences for calibration and recovery.
        held_out: Sentences for the comparison; none of the others.
        calibration_batches: Batches of 32 that gradients are taken on.
        disturbance: Standard deviation of the noise on calibration targets.
        recovery: How pruned models are trained on.
        batch_size: Batch of the timed calls.
        rounds: How often each call is timed.
        threads: Threads for torch and for ONNX Runtime; None takes two where two cores are idle, else one.
        seed: Seeds sentences, noise and scores.
    """

    passes: str = "prune-channels{{macs={macs:g},importance={importance},scope=isomorphic,round_to=8}}"
    shown: tuple[Choice, ...] = (Choice(0.75, "taylor"), Choice(0.5, "taylor"))
    baseline: Choice = Choice(0.75, "random")
    length: int = 32
    train: int = 1536
    held_out: int = 300
    calibration_batches: int = 8
    disturbance: float = 0.01
    recovery: DistillationConfig = field(default_factory=DistillationConfig)
    batch_size: int = 32
    rounds: int = 15
    threads: int | None = None
    seed: int = 0

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Every choice, the baseline last."""
        return (*self.shown, self.baseline)

    def pipeline(self, choice: Choice) -> str:
        """Return the text of the pipeline with a choice in it."""
        return self.passes.format(macs=choice.macs, importance=choice.importance)
