"""Quality of asynchronous and displaced sampling on trained digit models, beside one device with fewer steps.

A diffusion transformer and a U-Net that predict the noise are trained on scikit-learn's digits, or taken from the cache
folder. Every way to spread them over devices is emulated in one process, bit for bit as the devices compute it, and
starts from the same noise as the full run.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from machine import machine_text
from partition_quality_comparison.contest import Section, compete
from partition_quality_comparison.presentation import section_text, summary_text
from partition_quality_comparison.subjects import SIZES, TARGETS, TINY, load
from partition_quality_comparison.ways import Way

from graphopt.demo.classifier import ClassifierConfig
from graphopt.demo.diffusion import SamplingConfig, TrainingConfig
from graphopt.demo.digits import load_digits
from graphopt.demo.pretrained import digit_classifier
from graphopt.demo.quality import Judge

RESULTS = Path(__file__).parent / "results"
NAME = "partition_quality"
TRAINING_STEPS, TINY_TRAINING_STEPS = 1_500, 60
WAYS = (
    *(Way(name="async", devices=2, warm_up=1, extrapolate=share) for share in (0.0, 1.0)),
    *(Way(name="async", devices=2, warm_up=2, extrapolate=share) for share in (0.0, 0.5, 1.0)),
    *(Way(name="async sandwich", devices=2, warm_up=2, extrapolate=share) for share in (0.0, 1.0)),
    *(Way(name="async", devices=3, warm_up=3, extrapolate=share) for share in (0.0, 0.5, 1.0)),
    *(Way(name="async", devices=4, warm_up=3, extrapolate=share) for share in (0.0, 0.5, 1.0)),
    *(Way(name="async", devices=devices, warm_up=1, stride=2) for devices in (3, 4)),
    *(Way(name="displaced patches", devices=2, warm_up=2, extrapolate=share) for share in (0.0, 1.0)),
    *(Way(name="displaced patches", devices=4, warm_up=3, extrapolate=share) for share in (0.0, 1.0)),
    *(Way(name="patch pipeline", devices=2, warm_up=2, extrapolate=share) for share in (0.0, 1.0)),
)
TINY_WAYS = (
    Way(name="async", devices=2, warm_up=1),
    Way(name="async", devices=3, warm_up=1, stride=2),
    Way(name="displaced patches", devices=2, warm_up=1, extrapolate=1.0),
)


def main(arguments: list[str] | None = None) -> int:
    """Measure every model with every number of steps."""
    options = _options(arguments)
    torch.set_num_threads(1)
    data = load_digits()
    judge = Judge(digit_classifier(options.cache, data, _judge(options.tiny)), data.held_out)
    training = TrainingConfig(steps=TINY_TRAINING_STEPS if options.tiny else TRAINING_STEPS)
    sections: list[Section] = []
    sizes = TINY if options.tiny else SIZES
    for name in options.only or sizes:
        model = load(sizes[name], options.target, options.cache, data, training)
        for steps in options.steps:
            sampling = SamplingConfig(count=options.count, steps=steps, guidance=options.guidance, seeds=options.seeds)
            ways = TINY_WAYS if options.tiny else WAYS
            sections.append(compete(name, options.target, model, judge, sampling, ways))
            print(section_text(sections[-1]), flush=True)
    machine = machine_text(("graphopt", "torch", "scikit-learn"))
    print(summary_text(sections), machine, sep="\n")
    if options.results or not (options.only or options.tiny):
        _write(options.results or RESULTS, sections, machine)
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=_list(str), help="models, with commas; nothing is written then")
    parser.add_argument("--target", choices=tuple(TARGETS), default="noise", help="what the models predict")
    parser.add_argument("--steps", type=_list(int), default=(20, 50), help="steps of the full runs")
    parser.add_argument("--seeds", type=_list(int), default=(0, 1, 2, 3))
    parser.add_argument("--count", type=int, default=100, help="images for each seed")
    parser.add_argument("--guidance", type=float, default=1.0, help="weight; 1 is without guidance")
    parser.add_argument("--tiny", action="store_true", help="small, hardly trained models and two ways; as above")
    parser.add_argument("--cache", type=Path, default=Path(".demo_cache"), help="folder of trained weights")
    parser.add_argument("--results", type=Path, help="folder to write to, whatever is measured")
    return parser.parse_args(arguments)


def _list(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(kind(item) for item in text.split(","))


def _judge(tiny: bool) -> ClassifierConfig:
    return ClassifierConfig(epochs=1) if tiny else ClassifierConfig()


def _write(folder: Path, sections: list[Section], machine: str) -> None:
    head = [
        "# Quality of partitioned sampling",
        "",
        f"Written by `make bench ARGS={NAME}`; `benchmarks/README.md` says how to read it.",
        "",
        machine,
        "",
        "Error over that of one device with fewer steps in the same time:",
        "",
        summary_text(sections),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.md").write_text("\n".join([*head, *map(section_text, sections)]), encoding="utf-8")
    figures = {"machine": machine, "sections": [asdict(section) for section in sections]}
    (folder / f"{NAME}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
