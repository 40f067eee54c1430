"""Speed and memory of caches: graphopt's beside the systems that they are named after, on a U-Net and a transformer.

All systems of a case denoise at once, and take turns at every step.
"""

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from machine import machine_text
from zoo.torchvision_operators import torchvision_operators

OPERATORS = torchvision_operators()  # before diffusers is imported

from caching_comparison.cases import CASES, Case  # noqa: E402
from caching_comparison.contest import compete  # noqa: E402
from caching_comparison.deployment import deployments  # noqa: E402
from caching_comparison.figures import kept_share, rows, seconds_by_name, sizes  # noqa: E402
from caching_comparison.players import Player, baseline, compiled, eager, onnx  # noqa: E402
from caching_comparison.presentation import case_table, deployment_table, goals, size_table  # noqa: E402
from caching_comparison.subjects import FULL_SIZE, QUICK, Timed  # noqa: E402
from peers.sampling import scheduler_of  # noqa: E402
from peers.subjects import normal  # noqa: E402

import graphopt  # noqa: E402
from graphopt.cost import cost  # noqa: E402

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
NAME = "caching"
RUNTIMES = ("compiled", "onnx")


def main() -> int:
    """Run all cases, print the tables and write them down; the exit status says whether the goals are met."""
    options = _options()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    machine = machine_text(("graphopt", "torch", "diffusers", "DeepCache", "onnxruntime"))
    print(machine, flush=True)
    sections = [_section(name, options) for name in options.only or CASES]
    found = list(deployments()) if options.deployment else []
    print(deployment_table(found))
    reached = goals([row for section in sections for row in section["rows"]])
    print("\n".join(_goal_lines(reached)))
    if not (options.quick or options.only or options.match):
        _write(machine, sections, found, reached, options.rounds)
    return 0 if all(reached.values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny models; nothing is written then")
    parser.add_argument("--only", type=lambda text: text.split(","), help="unet or dit; as above")
    parser.add_argument("--match", default="", help="only cases whose text starts so; as above")
    parser.add_argument("--intervals", type=_numbers, default=(2, 3, 5), help="distances of full steps")
    parser.add_argument("--steps", type=int, default=20, help="steps of a generation")
    parser.add_argument("--rounds", type=int, default=5, help="timed generations, behind one that is not")
    parser.add_argument("--without", type=lambda text: text.split(","), default=(), help=f"of {', '.join(RUNTIMES)}")
    parser.add_argument("--no-deployment", dest="deployment", action="store_false", help="no compile and export table")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _section(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All cases of one denoiser."""
    timed = (QUICK if options.quick else FULL_SIZE)[name]()
    program = _capture(timed)
    seconds = seconds_by_name(program)
    section: dict[str, Any] = {"model": name, "rows": [], "sizes": [], "parameters": cost(program).parameters}
    print(f"## {name}, {section['parameters'] / 1e6:.1f} M parameters\n", flush=True)
    for case in CASES[name](timed, program, options.intervals, options.steps):
        if not case.passes.startswith(options.match):
            continue
        result = graphopt.Pipeline(case.passes).run(program)
        hoisted = graphopt.Pipeline(case.hoisted).run(program) if case.hoists else None
        with tempfile.TemporaryDirectory() as folder:
            players = dict(_players(timed, case, (result, hoisted), Path(folder), options))
            records = compete(timed, players, steps=options.steps, rounds=options.rounds)
        found = rows(case.passes, records, kept_share(program, seconds, result))
        print(case_table(found), flush=True)
        section["rows"] += found
        section["sizes"] += sizes(case.passes, result)
        section["sizes"] += sizes(case.hoisted, hoisted) if hoisted is not None else []
    return section


def _capture(timed: Timed) -> graphopt.Program:
    timestep = scheduler_of(timed.subject).timesteps[0]
    latents = normal(2, *timed.subject.latents)
    args, kwargs = timed.subject.arguments(latents, timestep, timed.subject.conditions(2))
    return graphopt.capture(timed.subject.make(), args, kwargs)


def _players(
    timed: Timed,
    case: Case,
    results: tuple[graphopt.Result, graphopt.Result | None],
    folder: Path,
    options: argparse.Namespace,
) -> Iterator[tuple[str, Player]]:
    """Everyone who takes part, by name."""
    steps = options.steps
    yield "baseline", baseline(timed, steps)
    yield "original", case.original(timed, steps)
    for result, suffix in zip(results, ("", ", hoisted"), strict=True):
        if result is None:
            continue
        yield f"eager{suffix}", eager(timed, steps, result)
        if "compiled" not in options.without:
            yield f"compiled{suffix}", compiled(timed, steps, result)
    if "onnx" not in options.without:
        yield "ONNX Runtime", onnx(timed, steps, results[0], folder / "files")


def _goal_lines(reached: dict[str, bool]) -> list[str]:
    return [f"* {line}: {'met' if met else 'missed'}" for line, met in reached.items()]


def _write(
    machine: str, sections: list[dict[str, Any]], found: list[Any], reached: dict[str, bool], rounds: int
) -> None:
    call = " ".join([NAME, *sys.argv[1:]])
    parts = [
        "# Speed and memory of caches\n",
        f"Written by `make bench ARGS='{call}'`; `benchmarks/README.md` says how to read it.\n",
        f"{machine}; {rounds} rounds.\n",
        "\n".join(_goal_lines(reached)) + "\n",
    ]
    for section in sections:
        parts.append(f"## {section['model']}, {section['parameters'] / 1e6:.1f} M parameters\n")
        texts = dict.fromkeys(row.passes for row in section["rows"])
        parts += [case_table([row for row in section["rows"] if row.passes == text]) for text in texts]
        parts += ["### Programs\n", size_table(section["sizes"])]
    parts += ["## What compiles and what exports\n", deployment_table(found)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.md").write_text("\n".join(parts), encoding="utf-8")
    figures = {"machine": machine, "rounds": rounds, "goals": reached, "sections": sections, "deployment": found}
    (RESULTS / f"{NAME}.json").write_text(json.dumps(figures, indent=1, default=asdict) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
