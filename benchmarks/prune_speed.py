"""CPU seconds of a whole prune at ratio 0.5, graphopt beside Torch-Pruning: the zoo, growing depth, full size.

Every tool and model has a process of its own with a limit of CPU seconds. `--parts` takes some of zoo, depth, unet and
llama, `--only` names models; nothing is written then.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from machine import machine_text
from process_memory import current_bytes, peak_bytes, restart_peak
from prune_speed_comparison.outcome import TOOLS, Outcome
from prune_speed_comparison.presentation import depth_lines, lines_of, markdown
from prune_speed_comparison.subjects import DEPTHS, llama_70b, zoo_names
from zoo.torchvision_operators import torchvision_operators

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
PATH = os.pathsep.join((str(FOLDER), str(FOLDER.parent / "tests")))
PARTS = ("zoo", "depth", "unet", "llama")
WALL_FACTOR = 15
"""Wall-clock limit over the CPU limit: the machine may be busy with something else."""


def main() -> int:
    """Run the parts, print what they say of the goals, and write it down where all of them ran."""
    options = _options()
    if options.in_process:
        print(json.dumps(_llama()))
        return 0
    figures: dict[str, Any] = {"load": os.getloadavg()[0], "every": options.every, "cores": os.cpu_count()}
    if options.only:
        figures["zoo"] = _contest(options.only, options.seconds)
    else:
        figures |= {part: _part(part, options) for part in options.parts}
    figures["load_after"] = os.getloadavg()[0]
    sections = lines_of(figures) + depth_lines(figures.get("depth", []))
    print("\n".join(sections))
    if not options.only and set(options.parts) == set(PARTS):
        _write(figures, options)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), help="models such as timm/volo, with commas")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--every", type=int, default=1, help="take every n-th model of the zoo")
    parser.add_argument("--seconds", type=int, default=25, help="CPU seconds a tool has for one model")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _part(part: str, options: argparse.Namespace) -> Any:
    if part == "zoo":
        operators = torchvision_operators()
        names = zoo_names(options.every)
        del operators
        return _contest(names, options.seconds)
    if part == "depth":
        return _contest([f"depth/{depth}" for depth in DEPTHS], 4 * options.seconds)
    if part == "unet":
        return _contest(["unet/sd15"], 4 * options.seconds)
    command = [sys.executable, __file__, "--in-process"]
    done = subprocess.run(command, env=_environment(), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _contest(names: list[str], seconds: int) -> list[Outcome]:
    outcomes = []
    for name in names:
        found = [_run(tool, name, seconds) for tool in TOOLS]
        print(f"{name}: " + "; ".join(map(str, found)), flush=True)
        outcomes += found
    return outcomes


def _run(tool: str, name: str, seconds: int) -> Outcome:
    """One tool on one model in a fresh process."""
    command = [sys.executable, "-m", "prune_speed_comparison.worker", tool, name, "--seconds", str(seconds)]
    try:
        done = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, timeout=seconds * WALL_FACTOR, check=False
        )
        text, code, errors = done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as error:
        text, code, errors = (error.stdout or b"").decode(), -1, f"no answer in {seconds * WALL_FACTOR} s"
    parts = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    stopped = code in (-24, -9)
    ending = (
        f"over {seconds} s of CPU time" if stopped else (errors.strip().splitlines() or [f"exit status {code}"])[-1]
    )
    return Outcome.read(tool, name, parts, ending, seconds if stopped else math.nan)


def _environment() -> dict[str, str]:
    inherited = os.environ.get("PYTHONPATH")
    path = PATH if inherited is None else os.pathsep.join((PATH, inherited))
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def _llama() -> dict[str, Any]:
    """CPU seconds and memory of capture and analysis of a model without weights."""
    import graphopt
    from graphopt.dependency.registry import rule_table

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    operators = torchvision_operators()
    model, args, kwargs = llama_70b()
    del operators
    rule_table()
    tiny = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)).eval()
    graphopt.DependencyGraph(graphopt.capture(tiny, (torch.ones(2, 4),))).groups  # noqa: B018 - what is used first
    before = current_bytes()
    restart_peak()
    start = time.process_time()
    program = graphopt.capture(model, args, kwargs)
    captured = time.process_time()
    groups = graphopt.DependencyGraph(program).groups
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "nodes": sum(1 for _ in program.nodes()),
        "capture": captured - start,
        "analysis": time.process_time() - captured,
        "groups": len(groups),
        "peak_bytes": peak_bytes() - before,
    }


def _write(figures: dict[str, Any], options: argparse.Namespace) -> None:
    RESULTS.mkdir(exist_ok=True)
    machine = machine_text(("graphopt", "torch-pruning", "torch", "torchvision", "transformers", "diffusers", "timm"))
    (RESULTS / "prune_speed.md").write_text(markdown(figures, machine, options.seconds), encoding="utf-8")
    plain = {
        key: [vars(item) for item in value] if isinstance(value, list) else value for key, value in figures.items()
    }
    text = json.dumps({"machine": machine, **plain}, indent=1)
    (RESULTS / "prune_speed.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
