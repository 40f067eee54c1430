"""The demonstration on a diffusion transformer: train, prune half of the work away, prove, recover, export, compare."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

import graphopt
from graphopt.demo.cache import Trained, trained
from graphopt.demo.classifier import DigitClassifier, accuracy, train_classifier
from graphopt.demo.deployment import Deployment, deploy, sized_row
from graphopt.demo.diffusion import diffusion_loss, noised_batches, sample, train
from graphopt.demo.digits import CLASSES, Digits, LabelledImages, load_digits
from graphopt.demo.images import write_grid
from graphopt.demo.model import DiT
from graphopt.demo.pruning import Pruned, Workload, prune
from graphopt.demo.quality import Judge, Spread, summarise
from graphopt.demo.report import DemoReport, Figure, Row
from graphopt.demo.settings import DitDemo
from graphopt.demo.timing import Stopwatch, torch_threads
from graphopt.program import Program

FIGURES = {
    "loss": Figure("loss", "{:.4f}"),
    "accuracy": Figure("accuracy %", "{:.1f}", 100.0),
    "frechet": Figure("Fréchet", "{:.1f}"),
}

DEFAULT = DitDemo()


@dataclass(frozen=True, eq=False)
class _Variant:
    """A model pruned with one score, recovered, and the quality of its samples before and after."""

    pruned: Pruned
    module: nn.Module
    program: Program
    before: Mapping[str, Spread]
    after: Mapping[str, Spread]


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
        with watch.part("prune, prove, recover and sample"):
            work = _workload(model, data, demo)
            variants = {score: _variant(work, score, data, judge, demo) for score in demo.scores}
        with watch.part("export and time"):
            programs = {"original": work.capture(), "pruned": variants[demo.scores[0]].program}
            timed = next(noised_batches(data.train, replace(demo.training, batch_size=demo.batch_size))).args
            deployed = deploy(programs, timed, out, threads=demo.threads, rounds=demo.rounds)
        with watch.part("sample the original"):
            original = judge.score_model(model, demo.sampling)
            write_grid(_samples(model, variants, demo), out / "samples.png")
    real = summarise([judge.score(_some(data.train, demo.sampling.count, seed)) for seed in demo.sampling.seeds])
    report = DemoReport(
        title=f"A diffusion transformer on 8x8 digits, {demo.passes.format(importance=demo.scores[0])}",
        rows=(
            replace(sized_row("original", programs["original"], deployed["original"]), quality=original),
            *_rows(variants, deployed["pruned"]),
            Row(name="real digits", quality=real),
        ),
        figures=FIGURES,
        findings=_findings(variants, original, demo),
        notes=_notes(variants, judge, deployed, demo),
        files={**{name: item.onnx.path for name, item in deployed.items()}, "samples": out / "samples.png"},
        seconds=watch.seconds,
    )
    report.save(out / "report.json")
    return report


def _classifier(cache: Path, data: Digits, demo: DitDemo) -> DigitClassifier:
    def make() -> Trained:
        return Trained(train_classifier(data.train, demo.classifier).state_dict(), {})

    model = DigitClassifier(demo.classifier)
    model.load_state_dict(dict(trained(cache, "judge", asdict(demo.classifier), make).tensors))
    return model.eval()


def _model(cache: Path, data: Digits, demo: DitDemo) -> DiT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(demo.training.seed)
        model = DiT(demo.model)

    def make() -> Trained:
        loss = train(model, data.train, demo.training, "training the diffusion transformer")
        return Trained(model.state_dict(), {"loss": loss})

    config = {"model": asdict(demo.model), "training": asdict(demo.training)}
    model.load_state_dict(dict(trained(cache, "dit", config, make).tensors))
    return model.eval()


def _workload(model: DiT, data: Digits, demo: DitDemo) -> Workload:
    batches = noised_batches(data.train, replace(demo.training, seed=demo.calibration_seed))
    calibration = tuple(itertools.islice(batches, demo.calibration_batches))
    args = tuple(value[:2] for value in calibration[0].args)
    return Workload(model=model, args=args, calibration=calibration, loss=diffusion_loss, seed=demo.training.seed)


def _variant(work: Workload, score: str, data: Digits, judge: Judge, demo: DitDemo) -> _Variant:
    pruned = prune(work, demo.passes.format(importance=score))
    module = copy.deepcopy(pruned.result.module()).eval()
    before = judge.score_model(module, demo.sampling)
    train(module, data.train, demo.recovery, f"recovering ({score})")
    after = judge.score_model(module, demo.sampling)
    return _Variant(pruned, module, graphopt.capture(module, work.args), before, after)


def _some(data: LabelledImages, count: int, seed: int) -> LabelledImages:
    """Choose as many real images as there are samples, so that their Fréchet distance is comparable."""
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
    return LabelledImages(data.images[rows], data.labels[rows])


def _samples(model: DiT, variants: Mapping[str, _Variant], demo: DitDemo) -> dict[str, torch.Tensor]:
    """Draw two of each digit from the same noise with every model."""
    labels = torch.arange(2 * CLASSES) % CLASSES
    seed = demo.sampling.seeds[0]
    drawn = {"original": sample(model, labels, demo.sampling, seed)}
    for score, variant in variants.items():
        drawn[f"pruned\n({score})"] = sample(variant.module, labels, demo.sampling, seed)
    return drawn


def _rows(variants: Mapping[str, _Variant], deployment: Deployment) -> Iterator[Row]:
    for index, (score, variant) in enumerate(variants.items()):
        row = sized_row(f"{score}, recovered", variant.program, None if index else deployment)
        yield replace(row, name=f"{score}, pruned", torch_milliseconds=None, onnx_milliseconds=None, quality=variant.before)
        yield replace(row, quality=variant.after)


def _findings(variants: Mapping[str, _Variant], original: Mapping[str, Spread], demo: DitDemo) -> dict[str, bool]:
    shown, *baselines = demo.scores
    after = variants[shown].after
    wins = {
        f"{shown} has a lower loss than {other} after recovery": after["loss"].mean < variants[other].after["loss"].mean
        for other in baselines
    }
    ...
