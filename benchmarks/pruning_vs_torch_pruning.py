"""graphopt and Torch-Pruning side by side on architectures of the zoo: does it work, is it exact, what does it cost."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from machine import machine_text
from pruning_comparison.architectures import ARCHITECTURES
from pruning_comparison.outcome import TOOLS, Outcome
from pruning_comparison.presentation import markdown, print_table
from rich.console import Console

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
PATH = os.pathsep.join((str(FOLDER), str(FOLDER.parent / "tests")))
NAME = "pruning_vs_torch_pruning"
WALL_FACTOR = 10
"""Wall-clock limit over the CPU limit: the machine may be busy with something else."""


def main() -> int:
    """Run every tool on every architecture, print the table and write it down."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 190)
    outcomes: list[Outcome] = []
    for library, names in ARCHITECTURES.items():
        for name in names:
            if options.only and name not in options.only:
                continue
            found = [_run(tool, library, name, options.seconds) for tool in TOOLS]
            outcomes.extend(found)
            console.print(f"{library}/{name}: " + "; ".join(str(outcome) for outcome in found), markup=False)
    print_table(outcomes, console)
    console.print(machine_text(("graphopt", "torch-pruning", "torch", "transformers", "diffusers", "timm")))
    if not options.only:
        _write(outcomes, options.seconds)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), help="names, with commas; nothing is written then")
    parser.add_argument("--seconds", type=int, default=60, help="CPU seconds a tool has for one architecture")
    return parser.parse_args()


def _run(tool: str, library: str, name: str, seconds: int) -> Outcome:
    """One tool on one architecture in a fresh process."""
    command = [sys.executable, "-m", "pruning_comparison.worker", tool, library, name, "--seconds", str(seconds)]
    settings = {"PYTHONPATH": PATH, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    wall = seconds * WALL_FACTOR
    try:
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=wall, check=False
        )
        text, code, errors = done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as error:
        text, code, errors = (error.stdout or b"").decode(), -1, f"no answer in {wall} s"
    parts = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return Outcome.read(tool, library, name, parts, _ending(code, errors, seconds))


def _ending(code: int, errors: str, seconds: int) -> str:
    """Why a process gave no more than it did."""
    if code in (-24, -9):
        return f"over {seconds} s of CPU time"
    return (errors.strip().splitlines() or [f"exit status {code}"])[-1]


def _write(outcomes: list[Outcome], seconds: int) -> None:
    RESULTS.mkdir(exist_ok=True)
    versions = machine_text(("graphopt", "torch-pruning", "torch", "torchvision", "transformers", "diffusers", "timm"))
    (RESULTS / f"{NAME}.md").write_text(markdown(outcomes, versions, seconds), encoding="utf-8")
    text = json.dumps({"machine": versions, "outcomes": [vars(outcome) for outcome in outcomes]}, indent=1)
    (RESULTS / f"{NAME}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
