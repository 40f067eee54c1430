"""Quality of cached sampling on trained digit models, beside fewer steps at equal time.

A diffusion transformer and a U-Net are trained on scikit-learn's digits, or taken from the cache folder. Every preset
samples from the same noise as the full run.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from machine import machine_text
from torch import Tensor, nn

import graphopt
from graphopt.demo.caching_quality import Contest, Entry, QualityHarness, trajectory
from graphopt.demo.caching_table import quality_table, tally
from graphopt.demo.classifier import ClassifierConfig
from graphopt.demo.diffusion import SamplingConfig, TrainingConfig
from graphopt.demo.digits import Digits, load_digits
from graphopt.demo.model import DiTConfig
from graphopt.demo.pretrained import diffusion_transformer, diffusion_unet, digit_classifier
from graphopt.demo.quality import Judge
from graphopt.demo.unet import UNetConfig
from graphopt.errors import GraphoptError

RESULTS = Path(__file__).parent / "results"
NAME = "caching_quality"
CALIBRATION_SEED, CALIBRATION_COUNT = 1_000, 20


@dataclass(frozen=True)
class Subject:
    """A model: how it is had, and the texts of the presets that fit it."""

    load: Callable[[Path, Digits], nn.Module]
    presets: tuple[str, ...]


SUBJECTS = {
    "unet": Subject(
        lambda cache, data: diffusion_unet(cache, data, UNetConfig(), TrainingConfig()),
        (
            "deepcache{interval=2}",
            "deepcache{interval=3}",
            "deepcache{interval=5}",
            "deepcache{interval=3,branch=2}",
            "insert-cache{cuts=[skip.0],schedule=uniform:3,predictor=linear}",
            "dip-go{ratio=0.5}",
            "auto{speedup=2}",
        ),
    ),
    "dit": Subject(
        lambda cache, data: diffusion_transformer(cache, data, DiTConfig(), TrainingConfig()),
        (
            "first-block{threshold=0.2}",
            "first-block{threshold=0.3}",
            "first-block{threshold=0.4}",
            "dbcache{front=1,back=1,warm_up=2,threshold=0.2}",
            "dbcache{front=1,back=0,warm_up=2,threshold=0.3,max_consecutive=2}",
            "taylorseer{interval=3,layers=all}",
            "taylorseer{interval=3,layers=attention}",
            "mag-cache{threshold=0.06}",
            "mag-cache{threshold=0.12}",
            "pab{self_attention=2,window=[0.1,0.8]}",
            "l2c{ratio=0.5}",
            "l2c{ratio=0.9}",
            "dip-go{ratio=0.5}",
            "auto{speedup=2}",
        ),
    ),
}


class Cached:
    """A session that is told all steps of a generation when it starts."""

    def __init__(self, session: Any, steps: int) -> None:
        self.session = session
        self.times = torch.linspace(1.0, 0.0, steps + 1)[:-1].tolist()

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.session(x, t, y)

    def reset(self) -> None:
        self.session.reset(timesteps=self.times)

    def programs(self) -> dict[str, int]:
        """How often each program ran in the last generation."""
        return dict(Counter(decision.program for decision in self.session.decisions))


def main() -> int:
    """Measure every model with and without guidance; the exit status is 1 where a preset could not be used."""
    options = _options()
    torch.set_num_threads(1)
    data = load_digits()
    judge = Judge(digit_classifier(options.cache, data, ClassifierConfig()), data.held_out)
    sections: list[dict[str, Any]] = []
    for name in options.only or SUBJECTS:
        model = SUBJECTS[name].load(options.cache, data)
        for guidance in options.guidance:
            sampling = SamplingConfig(count=options.count, steps=options.steps, guidance=guidance, seeds=options.seeds)
            sections.append(_section(name, model, judge, sampling, options))
            print(_markdown(sections[-1]), flush=True)
    machine = machine_text(("graphopt", "torch", "scikit-learn"))
    print(machine)
    if not options.only and not options.presets:
        _write(sections, machine)
    return 1 if any(section["failures"] for section in sections) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", type=lambda text: text.split(","), help="models, with commas; nothing is written then"
    )
    parser.add_argument("--presets", type=lambda text: text.split(";"), help="texts, with semicolons; as above")
    parser.add_argument("--guidance", type=_numbers(float), default=(1.25, 1.0), help="weights; 1 is without guidance")
    parser.add_argument("--seeds", type=_numbers(int), default=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=20, help="steps of the full run")
    parser.add_argument("--fewer", type=_numbers(int), default=(4, 6, 8, 10, 15), help="fewer steps to show")
    parser.add_argument("--count", type=int, default=200, help="images for each seed")
    parser.add_argument("--rounds", type=int, default=5, help="how often a generation is timed")
    parser.add_argument("--cache", type=Path, default=Path(".demo_cache"), help="folder of trained weights")
    return parser.parse_args()


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(kind(item) for item in text.split(","))


def _section(
    name: str, model: nn.Module, judge: Judge, sampling: SamplingConfig, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure all presets on one model."""
    program = graphopt.capture(model, tuple(value[:2] for value in _calibration(model, sampling)[0]))
    full = program.module().eval()
    context = graphopt.PassContext(calibration=_calibration(full, sampling))
    harness = QualityHarness(full, judge, sampling, rounds=options.rounds)
    uncached = [harness.uncached(steps) for steps in (sampling.steps, *sorted(options.fewer, reverse=True))]
    contests: list[Contest] = []
    programs: dict[str, dict[str, int]] = {}
    failures: dict[str, str] = {}
    for text in options.presets or SUBJECTS[name].presets:
        try:
            result = graphopt.Pipeline(text).run(program, context)
            cached = Cached(graphopt.CacheSession(result), sampling.steps)
            contests.append(harness.contest(text, cached))
        except GraphoptError as error:
            failures[text] = str(error).splitlines()[0]
            continue
        programs[text] = cached.programs()
    return {
        "model": name,
        "sampling": asdict(sampling),
        "uncached": uncached,
        "contests": contests,
        "programs": programs,
        "failures": failures,
    }


def _calibration(model: nn.Module, sampling: SamplingConfig) -> tuple[tuple[Tensor, ...], ...]:
    return trajectory(model, sampling, CALIBRATION_COUNT, CALIBRATION_SEED)


def _markdown(section: dict[str, Any]) -> str:
    sampling, contests = section["sampling"], section["contests"]
    guidance = f"guidance {sampling['guidance']:g}" if sampling["guidance"] != 1 else "without guidance"
    lines = [
        f"## {section['model']}, {guidance}",
        "",
        f"{sampling['count']} images for each of {len(sampling['seeds'])} seeds; mean ± deviation over the seeds.",
        "",
        quality_table(section["uncached"], contests),
        f"{tally(contests)}.",
        "",
    ]
    lines += [f"* `{text}` ran {_counts(ran)} in the last generation." for text, ran in section["programs"].items()]
    lines += [f"* `{text}` could not be used: {reason}" for text, reason in section["failures"].items()]
    return "\n".join(lines) + "\n"


def _counts(programs: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}x" for name, count in programs.items())


def _write(sections: list[dict[str, Any]], machine: str) -> None:
    head = [
        "# Quality of cached sampling",
        "",
        f"Written by `make bench ARGS={NAME}`; `benchmarks/README.md` says how to read it.",
        "",
        machine,
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    text = "\n".join([*head, *map(_markdown, sections)])
    (RESULTS / f"{NAME}.md").write_text(text, encoding="utf-8")
    figures = json.dumps({"machine": machine, "sections": sections}, indent=1, default=_plain)
    (RESULTS / f"{NAME}.json").write_text(figures + "\n", encoding="utf-8")


def _plain(item: Entry | Contest) -> dict[str, Any]:
    return asdict(item)


if __name__ == "__main__":
    raise SystemExit(main())
