"""The torch.compile backend on models with structured zeros: eager, inductor, and graphopt handing on to inductor."""

import argparse
import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from machine import machine_text
from zoo.torchvision_operators import torchvision_operators

OPERATORS = torchvision_operators()  # before torchvision, timm and diffusers are imported

from backend_comparison.contest import Row, compete, warm_up  # noqa: E402
from backend_comparison.masking import Masked, mask  # noqa: E402
from backend_comparison.presentation import goals, table  # noqa: E402
from backend_comparison.subjects import SUBJECTS  # noqa: E402

RESULTS = Path(__file__).parent / "results"
NAME = "backend"


def main() -> int:
    """Run all models, print the table and write it down; the exit status says whether the goals are met."""
    options = _options()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch._inductor.config.compile_threads = 1
    machine = machine_text(("graphopt", "torch", "torchvision", "timm", "diffusers"))
    print(machine, flush=True)
    warm_up()
    rows: list[Row] = []
    for name in options.only or SUBJECTS:
        for share in options.shares:
            subject = SUBJECTS[name](quick=options.quick)
            masked = mask(subject, share) if share else Masked(0, 0.0)
            found = compete(name, share, masked.parameters, subject, options.rounds)
            print(table(found), flush=True)
            rows += found
    reached = goals(rows)
    lines = [f"* {line}: {'met' if met else 'missed'}" for line, met in reached.items()]
    print("\n".join(lines))
    if not (options.quick or options.only):
        _write(machine, rows, lines, options.rounds)
    return 0 if all(reached.values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny models; nothing is written then")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"some of {', '.join(SUBJECTS)}; as above")
    parser.add_argument("--shares", type=_numbers, default=(0.0, 0.3, 0.5, 0.7), help="shares of indices zeroed")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of one call a system")
    return parser.parse_args()


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def _write(machine: str, rows: list[Row], lines: list[str], rounds: int) -> None:
    call = " ".join([NAME, *sys.argv[1:]])
    parts = [
        "# The torch.compile backend\n",
        f"Written by `make bench ARGS='{call}'`; `benchmarks/README.md` says how to read it.\n",
        f"{machine}; {rounds} rounds.\n",
        "\n".join(lines) + "\n",
        table(rows),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.md").write_text("\n".join(parts), encoding="utf-8")
    figures = {"machine": machine, "rounds": rounds, "rows": [asdict(row) for row in rows]}
    (RESULTS / f"{NAME}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
