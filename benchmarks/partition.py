"""Programs spread over devices: the plan beside other splits, two processes beside one, and a forecast for many.

make bench ARGS="partition"
make bench ARGS="partition --tiny --only splits,sweep"
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from machine import machine_text
from zoo.torchvision_operators import torchvision_operators

OPERATORS = torchvision_operators()  # before diffusers is imported

from partition_comparison.figure import Chart, figure  # noqa: E402
from partition_comparison.presentation import (  # noqa: E402
    goals,
    memory_table,
    run_table,
    split_summary,
    split_table,
    sweep_table,
)
from partition_comparison.running import Held, Run, Setting, held, race  # noqa: E402
from partition_comparison.splitting import Split, Table  # noqa: E402
from partition_comparison.subjects import SUBJECTS  # noqa: E402

from graphopt.partition.coarsening import coarsen  # noqa: E402
from graphopt.partition.links import Link, load_links  # noqa: E402
from graphopt.partition.measuring import measured  # noqa: E402
from graphopt.partition.sweep import SweepPoint, sweep  # noqa: E402

RESULTS = Path(__file__).parent / "results"
NAME = "partition"
SECTIONS = ("splits", "runs", "memory", "sweep")
RACED = ("DiT", "U-Net")
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
BANDWIDTHS = (1e8, 1e9, 1e10, 1e11)
LATENCY_SECONDS = 1e-5


def main() -> int:
    """Run the sections, print their tables and write them down; 1 where a goal is missed."""
    options = _options()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    machine = machine_text(("graphopt", "torch", "diffusers", "transformers", "torchvision"))
    print(machine, flush=True)
    splits = _splits(options) if "splits" in options.only else []
    with tempfile.TemporaryDirectory() as folder:
        runs = _runs(options, Path(folder)) if "runs" in options.only else []
        memory = _memory(options, Path(folder)) if "memory" in options.only else []
    points = _sweep(options) if "sweep" in options.only else {}
    reached = goals(runs, splits, memory)
    parts = _parts(options, splits, runs, memory, points)
    lines = [f"* {line}: {'met' if met else 'missed'}" for line, met in reached.items()]
    print("\n".join([*parts, *lines]))
    if options.results or not (options.tiny or set(options.only) != set(SECTIONS) or options.models):
        found = {
            "splits": splits,
            "runs": runs,
            "memory": memory,
            "sweep": [one for own in points.values() for one in own],
        }
        _write(options.results or RESULTS, machine, options, parts, lines, found, points)
    return 0 if all(reached.values()) or options.tiny else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tiny", action="store_true", help="tiny models, whose times say nothing; no goal is asked for"
    )
    parser.add_argument(
        "--only", type=_names, default=SECTIONS, help=f"of {', '.join(SECTIONS)}; nothing is written then"
    )
    parser.add_argument("--models", type=_names, help=f"of {', '.join(SUBJECTS)}; as above")
    parser.add_argument("--devices", type=_numbers, default=(2, 3, 4), help="numbers of devices of the splits")
    parser.add_argument("--counts", type=_numbers, default=COUNTS, help="numbers of devices of the sweep")
    parser.add_argument("--steps", type=int, default=8, help="steps of a generation")
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds, behind one that is not")
    parser.add_argument("--repeats", type=int, default=5, help="runs of which a node's least time is taken")
    parser.add_argument("--solver-seconds", type=float, default=0.0, help="time for CP-SAT, with the extra solver")
    parser.add_argument("--links", help="JSON file of measured links between processes")
    parser.add_argument("--results", type=Path, help="folder to write to, whatever was chosen")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _chosen(options: argparse.Namespace, default: Sequence[str]) -> list[str]:
    return [name for name in SUBJECTS if name in (options.models or default)]


def _splits(options: argparse.Namespace) -> list[Split]:
    found: list[Split] = []
    for name in _chosen(options, tuple(SUBJECTS)):
        begun = time.perf_counter()
        program = SUBJECTS[name].program(tiny=options.tiny)
        table = Table(name, program, measured(program, options.repeats), solver_seconds=options.solver_seconds)
        own = [split for devices in options.devices for split in table.splits(devices)]
        print(f"{name}: {len(own)} splits in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        found += own
    return found


def _runs(options: argparse.Namespace, folder: Path) -> list[Run]:
    setting = Setting(options.steps, options.rounds, load_links(options.links))
    found: list[Run] = []
    for name in _chosen(options, RACED):
        (folder / name).mkdir()
        found += race(name, SUBJECTS[name].program(tiny=options.tiny), setting, folder / name)
        print(f"{name}: run", file=sys.stderr, flush=True)
    return found


def _memory(options: argparse.Namespace, folder: Path) -> list[Held]:
    found: list[Held] = []
    for name in _chosen(options, RACED):
        (folder / name).mkdir(exist_ok=True)
        found += held(name, SUBJECTS[name].program(tiny=options.tiny), (1, 2, 3, 4), folder / name)
    return found


def _sweep(options: argparse.Namespace) -> dict[str, list[SweepPoint]]:
    links = [Link(LATENCY_SECONDS, speed) for speed in BANDWIDTHS]
    found = {}
    for name in _chosen(options, RACED):
        program = SUBJECTS[name].program(tiny=options.tiny)
        costs = measured(program, options.repeats)
        workloads = {count: coarsen(program, costs, count).workload for count in options.counts}
        found[name] = list(sweep(workloads.__getitem__, options.counts, links))
        print(f"{name}: swept", file=sys.stderr, flush=True)
    return found


def _parts(
    options: argparse.Namespace,
    splits: list[Split],
    runs: list[Run],
    memory: list[Held],
    points: dict[str, list[SweepPoint]],
) -> list[str]:
    """All sections that were run, in Markdown."""
    parts = []
    if splits:
        parts += ["## Splits\n", split_table(splits), split_summary(splits)]
    for name in dict.fromkeys(run.model for run in runs):
        own = [run for run in runs if run.model == name]
        parts += [f"## Runs of {name}, {options.rounds} rounds of {options.steps} steps\n", run_table(own)]
    if memory:
        parts += ["## Parameters by process\n", memory_table(memory)]
    for name, own in points.items():
        parts += [f"## Forecast for {name}\n", sweep_table(own)]
    return parts


def _write(
    folder: Path,
    machine: str,
    options: argparse.Namespace,
    parts: list[str],
    lines: list[str],
    found: dict[str, Any],
    points: dict[str, list[SweepPoint]],
) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    call = " ".join([NAME, *sys.argv[1:]])
    text = [
        "# Programs spread over devices\n",
        f"Written by `make bench ARGS='{call}'`; `benchmarks/README.md` says how to read it.\n",
        f"{machine}; {options.rounds} rounds.\n",
        "\n".join(lines) + "\n",
        *parts,
    ]
    if points:
        (folder / f"{NAME}_sweep.svg").write_text(figure(_charts(points)), encoding="utf-8")
        text.append(f"![Speed-up by devices and link]({NAME}_sweep.svg)\n")
    (folder / f"{NAME}.md").write_text("\n".join(text), encoding="utf-8")
    data = {"machine": machine, "rounds": options.rounds, "steps": options.steps, "tiny": options.tiny, **found}
    (folder / f"{NAME}.json").write_text(json.dumps(data, indent=1, default=asdict) + "\n", encoding="utf-8")


def _charts(points: dict[str, list[SweepPoint]]) -> list[Chart]:
    charts = []
    for name, own in points.items():
        for kind in dict.fromkeys(point.kind for point in own):
            lines = {
                f"{speed / 1e9:g} GB/s": [
                    (point.devices, point.speed_up)
                    for point in own
                    if (point.kind, point.link.bytes_per_second) == (kind, speed)
                ]
                for speed in reversed(BANDWIDTHS)
            }
            counts = sorted({point.devices for point in own})
            charts.append(Chart(f"{name}, {kind}", lines, [(count, count) for count in counts]))
    return charts


if __name__ == "__main__":
    raise SystemExit(main())
