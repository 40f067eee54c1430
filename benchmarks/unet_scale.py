"""A full-size Stable Diffusion 1.5 U-Net, 860 million parameters: seconds to analyse it, memory to prune it.

Each part runs in a process of its own on one core. The goals are those of the project: at most 1 CPU second for the
analysis, and a peak of at most 1.6 times the weights while the model is pruned.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from machine import machine_text
from process_memory import current_bytes, peak_bytes, restart_peak
from torch import nn
from zoo.torchvision_operators import torchvision_operators

import graphopt
from graphopt.dependency.registry import rule_table

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
ANALYSIS_GOAL = 1.0
MEMORY_GOAL = 1.6


def main() -> int:
    """Run both parts, or the one named; the exit status says whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=sorted(PARTS), help="run one part here and print its figures as JSON")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of every dimension to remove")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.part:
        print(json.dumps(PARTS[options.part](options.ratio)))
        return 0
    figures: dict[str, Any] = {}
    for part in PARTS:
        figures |= _fresh(part, options.ratio)
    lines = _lines(figures)
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    text = "\n".join(f"* {line}" for line in lines)
    (RESULTS / "unet_scale.md").write_text(f"# Stable Diffusion 1.5 U-Net\n\n{text}\n", encoding="utf-8")
    (RESULTS / "unet_scale.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    met = figures["analysis_seconds"] <= ANALYSIS_GOAL and figures["memory_ratio"] <= MEMORY_GOAL
    return 0 if met else 1


def _fresh(part: str, ratio: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--part", part, "--ratio", str(ratio)]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _maker() -> Callable[[], nn.Module]:
    """Import what the model needs and return its maker, so that importing is in no figure."""
    operators = torchvision_operators()
    unet = import_module("diffusers").UNet2DConditionModel
    del operators
    return lambda: cast(nn.Module, unet(cross_attention_dim=768).eval())


def _inputs(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, timestep and text states; small, since neither figure depends on the size of the picture."""
    step = torch.zeros((), dtype=torch.long, device=device)
    return torch.randn(2, 4, 16, 16, device=device), step, torch.randn(2, 7, 768, device=device)


def analysis(_: float) -> dict[str, Any]:
    """CPU seconds of capture and analysis, on the meta device."""
    make = _maker()
    with torch.device("meta"):
        model = make()
    rule_table()
    start = time.process_time()
    program = graphopt.capture(model, _inputs("meta"))
    captured = time.process_time()
    graph = graphopt.DependencyGraph(program)
    groups = graph.groups
    done = time.process_time()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "nodes": sum(1 for _ in program.nodes()),
        "capture_seconds": captured - start,
        "analysis_seconds": done - captured,
        "groups": dict(Counter(group.kind for group in groups)),
    }


def memory(ratio: float) -> dict[str, Any]:
    """Peak of resident memory while real weights are pruned, over what was resident before the model was made."""
    make = _maker()
    rule_table()
    baseline = current_bytes()
    model = make()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    built = current_bytes() - baseline
    restart_peak()
    start = time.process_time()
    pass_ = graphopt.PruneChannels(ratio=ratio)
    context = graphopt.PassContext(verify=False)
    result = graphopt.optimize(model, _inputs("cpu"), passes=pass_, context=context)
    pruned = result.module()
    return {
        "weight_bytes": weights,
        "built_bytes": built,
        "peak_bytes": peak_bytes() - baseline,
        "memory_ratio": (peak_bytes() - baseline) / weights,
        "after_bytes": current_bytes() - baseline,
        "prune_seconds": time.process_time() - start,
        "parameters_after": sum(parameter.numel() for parameter in pruned.parameters()),
        "faults_to_disk": resource.getrusage(resource.RUSAGE_SELF).ru_majflt,
    }


PARTS = {"analysis": analysis, "memory": memory}


def _lines(figures: dict[str, Any]) -> list[str]:
    groups = ", ".join(f"{count} {kind}" for kind, count in figures["groups"].items())
    weights = figures["weight_bytes"]
    left = figures["parameters_after"] / figures["parameters"]
    peak = f"{figures['peak_bytes'] / 1e9:.2f} GB over the process before the model, weights {weights / 1e9:.2f} GB"
    alone, after = figures["built_bytes"] / weights, figures["after_bytes"] / weights
    return [
        f"{figures['parameters'] / 1e6:.1f} M parameters, {figures['nodes']} nodes, groups: {groups}",
        f"capture: {figures['capture_seconds']:.2f} CPU s on the meta device",
        f"analysis: {figures['analysis_seconds']:.2f} CPU s, goal at most {ANALYSIS_GOAL:g}",
        f"pruning, capture and scores included: {figures['prune_seconds']:.1f} CPU s, {left:.1%} of parameters left",
        f"peak memory: {peak}",
        f"in weights: peak {figures['memory_ratio']:.2f}, goal {MEMORY_GOAL:g}; model {alone:.2f}; after {after:.2f}",
        machine_text(("graphopt", "torch", "diffusers")),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
