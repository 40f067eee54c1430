"""The demonstration on a diffusion transformer: train, prune half of the work away, prove, recover, export, compare."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import graphopt
from graphopt.demo.classifier import accuracy
from graphopt.demo.deployment import Deployment, deploy, sized_row, timing_note
from graphopt.demo.diffusion import diffusion_loss, noised_batches, sample, train
from graphopt.demo.digits import CLASSES, Digits, LabelledImages, load_digits
from graphopt.demo.images import write_grid
from graphopt.demo.model import DiT
from graphopt.demo.pretrained import diffusion_transformer, digit_classifier
from graphopt.demo.pruning import Workload, prune
from graphopt.demo.quality import Judge
from graphopt.demo.report import DemoReport, Figure, Row, verdicts
from graphopt.demo.settings import DitDemo
from graphopt.demo.spread import Spread, summarise
from graphopt.demo.timing import Stopwatch, idle_threads, torch_threads
from graphopt.program import Program

FIGURES = {
    "loss": Figure("loss", "{:.4f}", lower_is_better=True),
    "accuracy": Figure("right %", "{:.1f}", scale=100.0),
    "frechet": Figure("Fréchet", "{:.1f}", lower_is_better=True),
}

DEFAULT = DitDemo()


@dataclass(frozen=True, eq=False)
class _Variant:
    """A model pruned with one score and recovered, and the quality of its samples before and after."""

    module: nn.Module
    program: Program
    error: float
    before: Mapping[str, Spread]
    after: Mapping[str, Spread]


def run_dit(cache: Path, out: Path, demo: DitDemo = DEFAULT) -> DemoReport:
    """Train a diffusion transformer on digits, halve its multiply-accumulates and compare.

    Writes ``original.onnx``, ``pruned.onnx``, ``samples.png`` and ``report.json`` into ``out / "dit"``.

    Args:
        cache: Folder that keeps trained weights between runs; made where it is absent.
        out: Folder for what is written; made where it is absent.
        demo: Sizes, steps, seeds and threads.

    Raises:
        MissingExtraError: scikit-learn, Pillow or the packages for ONNX are not installed.
        GraphoptError: Pruning, the proof or the export fails.
    """
    folder = out / "dit"
    folder.mkdir(parents=True, exist_ok=True)
    with torch_threads(demo.threads or idle_threads()):
        report = _run(cache, folder, demo)
    report.save(folder / "report.json")
    return report


def _run(cache: Path, out: Path, demo: DitDemo) -> DemoReport:
    watch = Stopwatch()
    data = load_digits()
    with watch.part("train"):
        judge = Judge(digit_classifier(cache, data, demo.classifier), data.held_out)
        model = diffusion_transformer(cache, data, demo.model, demo.training)
    with watch.part("prune and recover"):
        work = _workload(model, data, demo)
        variants = {score: _variant(work, score, data, judge, demo) for score in demo.scores}
    with watch.part("export and time"):
        programs = {"original": work.capture(), "pruned": variants[demo.scores[0]].program}
        timed = next(noised_batches(data.train, replace(demo.training, batch_size=demo.batch_size))).args
        deployed = deploy(programs, timed, out, demo.rounds)
    with watch.part("sample the original"):
        original = judge.score_model(model, demo.sampling)
        write_grid(_samples(model, variants, demo), out / "samples.png")
    return DemoReport(
        title=f"Diffusion transformer on 8x8 digits\n{demo.pipeline(demo.scores[0])}",
        rows=(
            replace(sized_row("original", programs["original"], deployed["original"]), quality=original),
            *_rows(variants, deployed["pruned"]),
            Row(name="real digits", quality=_real(data.train, judge, demo)),
        ),
        figures=FIGURES,
        findings=_findings(variants),
        notes=_notes(judge, deployed, variants, demo),
        files={**{name: item.onnx.path for name, item in deployed.items()}, "samples": out / "samples.png"},
        seconds=watch.seconds,
    )


def _workload(model: DiT, data: Digits, demo: DitDemo) -> Workload:
    batches = noised_batches(data.train, replace(demo.training, seed=demo.calibration_seed))
    calibration = tuple(itertools.islice(batches, demo.calibration_batches))
    args = tuple(value[:2] for value in calibration[0].args)
    return Workload(model=model, args=args, calibration=calibration, loss=diffusion_loss, seed=demo.training.seed)


def _variant(work: Workload, score: str, data: Digits, judge: Judge, demo: DitDemo) -> _Variant:
    pruned = prune(work, demo.pipeline(score))
    module = copy.deepcopy(pruned.result.module()).eval()
    before = judge.score_model(module, demo.sampling)
    train(module, data.train, demo.recovery, f"recovering ({score})")
    after = judge.score_model(module, demo.sampling)
    return _Variant(module, graphopt.capture(module, work.args), pruned.error, before, after)


def _real(data: LabelledImages, judge: Judge, demo: DitDemo) -> dict[str, Spread]:
    """Score as many real digits as there are samples: the Fréchet distance depends on the count."""
    scores = []
    for seed in demo.sampling.seeds:
        rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[: demo.sampling.count]
        scores.append(judge.score(LabelledImages(data.images[rows], data.labels[rows])))
    return summarise(scores)


def _samples(model: DiT, variants: Mapping[str, _Variant], demo: DitDemo) -> dict[str, Tensor]:
    """Draw two of each digit with every model, from the same noise."""
    labels = torch.arange(2 * CLASSES) % CLASSES
    modules = {"original": model, **{f"pruned\n({score})": variant.module for score, variant in variants.items()}}
    return {name: sample(module, labels, demo.sampling, demo.sampling.seeds[0]) for name, module in modules.items()}


def _rows(variants: Mapping[str, _Variant], deployment: Deployment) -> Iterator[Row]:
    for index, (score, variant) in enumerate(variants.items()):
        yield replace(sized_row(f"{score}, pruned", variant.program), quality=variant.before)
        row = sized_row(f"{score}, recovered", variant.program, None if index else deployment)
        yield replace(row, quality=variant.after)


def _findings(variants: Mapping[str, _Variant]) -> dict[str, dict[str, str]]:
    """Say for every figure whether the first score beats the others, before and after recovery."""
    (shown, first), *others = variants.items()
    found = {}
    for name, other in others:
        found[f"{shown} against {name}, pruned"] = verdicts(first.before, other.before, FIGURES)
        found[f"{shown} against {name}, recovered"] = verdicts(first.after, other.after, FIGURES)
    return found


def _notes(
    judge: Judge, deployed: Mapping[str, Deployment], variants: Mapping[str, _Variant], demo: DitDemo
) -> tuple[str, ...]:
    sampling = demo.sampling
    judged = f"{accuracy(judge.classifier, judge.held_out):.1%} on {len(judge.held_out)} held-out digits"
    proved = max(variant.error for variant in variants.values())
    exported = max(item.relative_error for item in deployed.values())
    draws = f"{sampling.count} for each of {len(sampling.seeds)} seeds"
    return (
        f"Samples: {draws}, {sampling.steps} DDIM steps, guidance {sampling.guidance:g}; mean ± deviation over seeds.",
        f"Judge: a classifier that is right on {judged}; loss and Fréchet distance are taken against those.",
        f"Recovery: {demo.recovery.steps} steps of batch {demo.recovery.batch_size}, the same for each score.",
        timing_note(demo.batch_size, demo.rounds),
        f"Proved: mask equals slice to {proved:.0e} on random weights; ONNX Runtime equals torch to {exported:.0e}.",
    )
