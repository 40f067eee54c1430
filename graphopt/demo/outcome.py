"""What the demonstration on the diffusion transformer found, as rows, verdicts and notes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from graphopt.cost import cost
from graphopt.demo.caching_quality import FIGURES as SAMPLES
from graphopt.demo.caching_quality import Denoiser, Entry
from graphopt.demo.classifier import accuracy
from graphopt.demo.quality import Judge
from graphopt.demo.recovery import Recovered
from graphopt.demo.report import DemoReport, Figure, Row, verdicts
from graphopt.demo.samplers import Sampler
from graphopt.demo.settings import DitDemo
from graphopt.demo.spread import Spread, compare_paired
from graphopt.pass_manager import Result
from graphopt.program import Program

ORIGINAL, LAYERS, CACHED, TOGETHER = "original", "layers dropped", "cached", "all together"

LOSS = Figure("loss", "{:.4f}", lower_is_better=True)
CUT = replace(LOSS, title="loss, cut")
FIGURES = {"cut": CUT, "loss": LOSS, **SAMPLES}


@dataclass(frozen=True, eq=False)
class Sampled:
    """A model that was sampled.

    Attributes:
        subject: The program, or the result with a schedule.
        denoiser: What drew the samples.
        sampler: Where it is exported and timed; None where it is not.
        macs: Multiply-accumulates of a generation for each image.
        entry: What its samples are worth.
    """

    subject: Program | Result
    denoiser: Denoiser
    sampler: Sampler | None
    macs: int
    entry: Entry


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """All that was measured.

    Attributes:
        demo: Sizes, steps and seeds.
        judge: What scored the samples.
        loss: Loss of the original on held-out digits.
        recovered: Models with something left out, by the name of their row.
        sampled: Everything sampled, by the name of its row and in that order.
        fewer: The original with as many steps as fit into the time of another row, by that row's name.
        real: Scores of real digits.
    """

    demo: DitDemo
    judge: Judge
    loss: float
    recovered: Mapping[str, Recovered]
    sampled: Mapping[str, Sampled]
    fewer: Mapping[str, Entry]
    real: Mapping[str, Spread]


def pruned_name(score: str) -> str:
    """Return the name of the row whose channels were pruned by a score."""
    return f"pruned ({score})"


def report_on(found: Outcome, files: Mapping[str, Path], seconds: Mapping[str, float]) -> DemoReport:
    """Put rows, verdicts and notes together.

    Args:
        found: All that was measured.
        files: What was written, by name.
        seconds: How long each part took.
    """
    demo = found.demo
    pipelines = (demo.pipeline(demo.scores[0]), demo.layers, demo.cache)
    return DemoReport(
        title="\n".join(("Diffusion transformer on 8x8 digits", *pipelines)),
        rows=tuple(_rows(found)),
        figures=FIGURES,
        findings=_findings(found),
        notes=_notes(found),
        files=files,
        seconds=seconds,
    )


def _rows(found: Outcome) -> Iterator[Row]:
    for name, one in found.sampled.items():
        yield _row(name, one, _losses(found, name))
        if name in found.fewer:
            yield _fewer_row(found.sampled[ORIGINAL], found.fewer[name])
    yield Row(name="real digits", quality=found.real)


def _row(name: str, one: Sampled, losses: Mapping[str, Spread]) -> Row:
    program = one.subject if isinstance(one.subject, Program) else one.subject.program
    return Row(
        name=name,
        parameters=cost(program).parameters,
        macs=one.macs,
        torch_milliseconds=1000 * one.sampler.torch_seconds if one.sampler else None,
        onnx_milliseconds=1000 * one.sampler.onnx_seconds if one.sampler else None,
        quality={**losses, **_quality(one.entry)},
    )


def _fewer_row(original: Sampled, entry: Entry) -> Row:
    """The original with fewer steps; what it takes is proportional to them."""
    whole, share = _row("", original, {}), entry.steps / original.entry.steps
    return replace(
        whole,
        name=f"original, {entry.steps} steps",
        macs=round(share * original.macs),
        torch_milliseconds=share * (whole.torch_milliseconds or 0.0),
        onnx_milliseconds=share * (whole.onnx_milliseconds or 0.0),
        quality=_quality(entry),
    )


def _losses(found: Outcome, name: str) -> dict[str, Spread]:
    if name == ORIGINAL:
        return {"loss": Spread(found.loss)}
    one = found.recovered.get(name)
    return {} if one is None else {"cut": Spread(one.loss_before), "loss": Spread(one.loss)}


def _quality(entry: Entry) -> dict[str, Spread]:
    return {name: Spread.of(entry.values(name)) for name in SAMPLES}


def _findings(found: Outcome) -> dict[str, dict[str, str]]:
    """Compare the first score with the others, and what is cached with fewer steps in the same time."""
    figures = {"cut": CUT, "loss": LOSS, "accuracy": SAMPLES["accuracy"], "frechet": SAMPLES["frechet"]}
    shown, *others = (pruned_name(score) for score in found.demo.scores)
    quality = {name: {**_losses(found, name), **_quality(one.entry)} for name, one in found.sampled.items()}
    said = {f"{shown} against {other}": verdicts(quality[shown], quality[other], figures) for other in others}
    for name, fewer in found.fewer.items():
        said[f"{name} against the original in {fewer.steps} steps"] = _paired(found.sampled[name].entry, fewer)
    for name in (shown, LAYERS, CACHED, TOGETHER):
        verdict = _paired(found.sampled[name].entry, found.sampled[ORIGINAL].entry)
        said[f"{name} against the original"] = {SAMPLES[key].title: verdict[SAMPLES[key].title] for key in _SCORED}
    return said


_SCORED = ("accuracy", "frechet")
"""Figures that the original does not have at its best by definition."""


def _paired(first: Entry, second: Entry) -> dict[str, str]:
    """Compare two samplers seed by seed: both start from the same noise."""
    return {
        figure.title: compare_paired(first.values(name), second.values(name), lower_is_better=figure.lower_is_better)
        for name, figure in SAMPLES.items()
    }


def _notes(found: Outcome) -> tuple[str, ...]:
    demo, judge, sampling = found.demo, found.judge, found.demo.sampling
    judged = f"{accuracy(judge.classifier, judge.held_out):.1%} on {len(judge.held_out)} held-out digits"
    proved = max(one.error for one in found.recovered.values())
    exported = max(one.sampler.error for one in found.sampled.values() if one.sampler)
    draws = f"{sampling.count} for each of {len(sampling.seeds)} seeds"
    threads = torch.get_num_threads()
    times = (
        f"Times: ms for {demo.timed_count} images over all steps, medians of {demo.rounds} interleaved generations, "
        f"{threads} thread{'s' * (threads > 1)}; with fewer steps, in proportion to them."
    )
    return (
        f"Samples: {draws}, {sampling.steps} DDIM steps, guidance {sampling.guidance:g}; mean ± deviation over seeds.",
        f"Judge: a classifier that is right on {judged}; loss and Fréchet distance are taken against those.",
        "Error: distance from the original's samples from the same noise, relative.",
        f"Recovery: {demo.recovery.steps} steps of batch {demo.recovery.batch_size}; {CUT.title!r} is the loss before.",
        f"All together: {demo.together}, recovered, then {demo.cache}.",
        "Its samples are drawn in ONNX Runtime, those of the others in torch; fewer steps take as long there.",
        "Parameters are those of all steps; MACs those of an image over all steps.",
        times,
        f"Proved: mask equals slice to {proved:.0e}, on random weights; ONNX Runtime equals torch to {exported:.0e}.",
    )
