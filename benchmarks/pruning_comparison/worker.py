"""One tool on one architecture, in a process of its own: prints a line of JSON after each part."""

import argparse
import json
import resource
import sys
import time
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import nn
from zoo.catalogue import Entry, entries
from zoo.torchvision_operators import torchvision_operators

from pruning_comparison.referee import Inputs, TensorOutputs, judge

REPEATS = 5
"""Timed analyses, of which the mean is reported: the system counts CPU time in coarse steps."""

LONG = 2.0
"""Seconds from which an analysis is not repeated."""


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=("graphopt", "torch-pruning"))
    parser.add_argument("library")
    parser.add_argument("name")
    parser.add_argument("--seconds", type=int, default=60, help="CPU seconds, imports and the model's making aside")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    operators = torchvision_operators()
    tool = _tool(options.tool)
    entry = next(item for item in entries(options.library) if item.name == options.name)
    tool.warm_up(TensorOutputs(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))), ((torch.ones(2, 4),), {}))
    _limit(options.seconds)
    for part in (_analysis, _quality):
        _report(_attempted(part, tool, entry))
    del operators


def _tool(name: str) -> ModuleType:
    if name == "graphopt":
        from pruning_comparison import with_graphopt as side
    else:
        from pruning_comparison import with_torch_pruning as side
    return side


def _limit(seconds: int) -> None:
    """Let the system end this process after so many CPU seconds from now."""
    end = int(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, end))


def _attempted(part: Any, tool: ModuleType, entry: Entry) -> dict[str, Any]:
    """What a part found, or how it failed: any error of a tool is a result here."""
    try:
        return dict(part(tool, entry))
    except Exception as error:
        text = str(error).splitlines() or [""]
        return {"part": part.__name__.strip("_"), "failure": f"{type(error).__name__}: {text[0]}"}


def _report(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _built(entry: Entry) -> tuple[nn.Module, Inputs]:
    model, args, kwargs = entry.build()
    return TensorOutputs(model).eval(), (args, kwargs)


def _analysis(tool: ModuleType, entry: Entry) -> dict[str, Any]:
    model, inputs = _built(entry)
    first = tool.analyse(model, inputs)
    again = first if first["analysis_seconds"] > LONG else tool.analyse(model, inputs, REPEATS)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"part": "analysis", "parameters": parameters, **again, "peak_bytes": first["peak_bytes"]}


def _quality(tool: ModuleType, entry: Entry) -> dict[str, Any]:
    model, inputs = _built(entry)
    original, _ = _built(entry)
    pruned = tool.prune(model, inputs)
    verdict = judge(original, pruned.eval(), inputs)
    return {"part": "quality", **vars(verdict)}


if __name__ == "__main__":
    main()
