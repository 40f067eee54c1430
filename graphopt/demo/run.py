"""The demonstration on a diffusion transformer: train, prune, drop layers, cache, prove, recover, export, compare."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from graphopt.demo.caching_quality import Entry, Inputs, QualityHarness, trajectory
from graphopt.demo.diffusion import diffusion_loss, noised_batches, sample
from graphopt.demo.digits import CLASSES, Digits, LabelledImages, load_digits
from graphopt.demo.images import write_grid
from graphopt.demo.model import DiT
from graphopt.demo.outcome import CACHED, LAYERS, ORIGINAL, TOGETHER, Outcome, Sampled, pruned_name, report_on
from graphopt.demo.pretrained import diffusion_transformer, digit_classifier
from graphopt.demo.pruning import Workload
from graphopt.demo.quality import Judge
from graphopt.demo.recovery import Recovered, cached, recover
from graphopt.demo.report import DemoReport
from graphopt.demo.samplers import Sampler, deploy_samplers, generation_macs, torch_denoiser
from graphopt.demo.settings import DitDemo
from graphopt.demo.spread import Spread, summarise
from graphopt.demo.timing import Stopwatch, idle_threads, torch_threads
from graphopt.pass_manager import Result
from graphopt.program import Program

DEFAULT = DitDemo()

FILES = {ORIGINAL: "original", LAYERS: "layers", CACHED: "cached", TOGETHER: "together"}
"""Names of what is exported by row; the pruned model of the first score comes beside."""

Subjects = Mapping[str, Program | Result]


def run_dit(cache: Path, out: Path, demo: DitDemo = DEFAULT) -> DemoReport:
    """Train a diffusion transformer on digits; prune it, drop layers, cache, do all of it, and compare.

    Writes ``original.onnx``, ``pruned.onnx`` and ``layers.onnx``, the folders ``cached`` and ``together`` with the ONNX
    files of a schedule, ``samples.png`` and ``report.json`` into ``out / "dit"``.

    Args:
        cache: Folder that keeps trained weights between runs; made where it is absent.
        out: Folder for what is written; made where it is absent.
        demo: Sizes, steps, seeds and threads.

    Raises:
        MissingExtraError: scikit-learn, Pillow or the packages for ONNX are not installed.
        GraphoptError: A pass, the proof or the export fails.
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
    with watch.part("remove and recover"):
        work = _workload(model, data, demo)
        recovered = {
            name: recover(work, text, data.train, judge, demo.recovery, name) for name, text in _pipelines(demo).items()
        }
    with watch.part("cache"):
        subjects = _subjects(work.capture(), recovered, demo)
    with watch.part("export and time"):
        calls = trajectory(model, demo.sampling, demo.timed_count, demo.timed_seed)
        files = {**FILES, pruned_name(demo.scores[0]): "pruned"}
        exported = {file: subjects[name] for name, file in files.items()}
        deployed = deploy_samplers(exported, calls, out, demo.rounds)
        samplers = {name: deployed[file] for name, file in files.items()}
    with watch.part("sample"):
        harness = QualityHarness(model, judge, demo.sampling)
        sampled = _sampled(subjects, samplers, calls, harness, demo)
        write_grid(_samples(sampled, demo), out / "samples.png")
    return report_on(
        Outcome(
            demo=demo,
            judge=judge,
            loss=judge.held_out_loss(model),
            recovered=recovered,
            sampled=sampled,
            fewer={name: harness.uncached(_steps(sampled[name].entry)) for name in (CACHED, TOGETHER)},
            real=_real(data.train, judge, demo),
        ),
        files={**{file: item.path for file, item in deployed.items()}, "samples": out / "samples.png"},
        seconds=watch.seconds,
    )


def _pipelines(demo: DitDemo) -> dict[str, str]:
    """Return the pipelines that leave something out, by the name of their row."""
    pruned = {pruned_name(score): demo.pipeline(score) for score in demo.scores}
    return {**pruned, LAYERS: demo.layers, TOGETHER: demo.together}


def _workload(model: DiT, data: Digits, demo: DitDemo) -> Workload:
    batches = noised_batches(data.train, replace(demo.training, seed=demo.calibration_seed))
    calibration = tuple(itertools.islice(batches, demo.calibration_batches))
    args = tuple(value[:2] for value in calibration[0].args)
    return Workload(model=model, args=args, calibration=calibration, loss=diffusion_loss, seed=demo.training.seed)


def _subjects(original: Program, recovered: Mapping[str, Recovered], demo: DitDemo) -> Subjects:
    """Return what is sampled, in the order of the rows."""
    return {
        ORIGINAL: original,
        **{name: one.program for name, one in recovered.items() if name != TOGETHER},
        CACHED: cached(original, demo.cache),
        TOGETHER: cached(recovered[TOGETHER].program, demo.cache),
    }


def _sampled(
    subjects: Subjects,
    samplers: Mapping[str, Sampler],
    calls: tuple[Inputs, ...],
    harness: QualityHarness,
    demo: DitDemo,
) -> dict[str, Sampled]:
    """Score the samples of every subject, drawn in torch; with all done to it, in ONNX Runtime, timed there too."""
    rows = len(calls[0][0]) // demo.timed_count
    whole = samplers[ORIGINAL]
    found = {}
    for name, subject in subjects.items():
        sampler = samplers.get(name)
        denoiser = torch_denoiser(subject) if sampler is None else sampler.torch
        share = 1.0 if sampler is None else sampler.torch_seconds / whole.torch_seconds
        if sampler is not None and name == TOGETHER:
            denoiser, share = sampler.onnx, sampler.onnx_seconds / whole.onnx_seconds
        entry = harness.entry(name, denoiser, demo.sampling.steps, share)
        found[name] = Sampled(subject, denoiser, sampler, rows * generation_macs(subject, calls), entry)
    return found


def _steps(entry: Entry) -> int:
    """Return how many steps of the original take as long as a generation of another sampler."""
    return max(1, round(entry.relative_time * entry.steps))


def _real(data: LabelledImages, judge: Judge, demo: DitDemo) -> dict[str, Spread]:
    """Score as many real digits as there are samples: the Fréchet distance depends on the count."""
    scores = []
    for seed in demo.sampling.seeds:
        rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[: demo.sampling.count]
        scores.append(judge.score(LabelledImages(data.images[rows], data.labels[rows])))
    return summarise(scores)


def _samples(sampled: Mapping[str, Sampled], demo: DitDemo) -> dict[str, Tensor]:
    """Draw two of each digit with every model, from the same noise."""
    labels = torch.arange(2 * CLASSES) % CLASSES
    drawn = {}
    for name, one in sampled.items():
        one.denoiser.reset()
        drawn[name.replace(" ", "\n", 1)] = sample(one.denoiser, labels, demo.sampling, demo.sampling.seeds[0])
    return drawn
