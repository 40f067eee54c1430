"""The demonstration on a diffusion transformer: train, prune half of the work away, prove, recover, export, compare."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

import graphopt
from graphopt.demo.cache import Trained, trained
from graphopt.demo.classifier import ClassifierConfig, DigitClassifier, accuracy, train_classifier
from graphopt.demo.deployment import Deployment, deploy, sized_row
from graphopt.demo.diffusion import SamplingConfig, TrainingConfig, diffusion_loss, noised_batches, sample, train
from graphopt.demo.digits import CLASSES, Digits, LabelledImages, load_digits
from graphopt.demo.images import write_grid
from graphopt.demo.model import DiT, DiTConfig
from graphopt.demo.pruning import Workload, prune
from graphopt.demo.quality import Judge, Spread, summarise
from graphopt.demo.report import DemoReport, Figure, Row
from graphopt.demo.timing import Stopwatch, torch_threads
from graphopt.program import Program

FIGURES = {"accuracy": Figure("accuracy %", "{:.1f}", 100.0), "frechet": Figure("Fréchet", "{:.1f}")}


@dataclass(frozen=True, kw_only=True)
class DitDemo:
    """Everything the demonstration can be told.

    Attributes:
        model: Sizes of the diffusion transformer.
        training: How it is trained.
        classifier: The judge of its samples.
        recovery: How pruned models are trained on.
        sampling: How samples are drawn.
        passes: Text of the pipeline, with ``{importance}`` for the score.
        scores: The score that is shown off, then the baseline.
        calibration_batches: Batches that gradients are taken on.
        batch_size: Batch of the timed calls.
        rounds: How often each call is timed.
        threads: Threads for torch and for ONNX Runtime.
    """

    model: DiTConfig = field(default_factory=DiTConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    recovery: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(steps=200, learning_rate=1e-3, warm_up=10, average=0.98, seed=1)
    )
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    passes: str = "prune-channels{{macs=0.5,importance={importance},scope=global}}"
    scores: tuple[str, str] = ("taylor", "random")
    calibration_batches: int = 16
    batch_size: int = 64
    rounds: int = 30
    threads: int = 2


DEFAULT = DitDemo()


@dataclass(frozen=True, eq=False)
class _Variant:
    """A model pruned with one score, with its samples' quality before and after recovery."""

    module: nn.Module
    program: Program
    before: Mapping[str, Spread]
    after: Mapping[str, Spread]
    error: float


def run_dit(cache: Path, out: Path, demo: DitDemo = DEFAULT) -> DemoReport:
    """Train a diffusion transformer on digits, halve its multiply-accumulates and compare.

    Writes ``original.onnx``, ``pruned.onnx``, ``samples.png`` and ``report.json``.

    Args:
        cache: Folder that keeps trained weights between runs; made where it is absent.
        out: Folder for what is written; made where it is absent.
        demo: Sizes, steps, seeds and threads.

    Raises:
        MissingExtraError: scikit-learn, Pillow or the packages for ONNX are not installed.
        GraphoptError: Pruning, the proof or the export fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    watch = Stopwatch()
    with torch_threads(demo.threads):
        data = load_digits()
        with watch.part("train"):
            judge = Judge(_classifier(cache, data, demo), data.held_out)
            model = _model(cache, data, demo)
        with watch.part("prune and recover"):
            work = _workload(model, data, demo)
            pruned = {score: _variant(work, score, data, judge, demo) for score in demo.scores}
        with watch.part("export and time"):
            programs = {"original": work.capture(), "pruned": pruned[demo.scores[0]].program}
            timed = next(noised_batches(data.train, TrainingConfig(batch_size=demo.batch_size))).args
            deployed = deploy(programs, timed, out, threads=demo.threads, rounds=demo.rounds)
        with watch.part("sample"):
            original = judge.score_model(model, demo.sampling)
            real = summarise([judge.score(_some(data.train, demo, seed)) for seed in demo.sampling.seeds])
            _write_samples(model, pruned, out / "samples.png", demo)
    ...
