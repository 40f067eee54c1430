"""Torch-Pruning's side."""

import itertools
import time
from typing import Any

import torch_pruning
from process_memory import peak_bytes, restart_peak
from torch import Tensor, nn

from pruning_comparison.output_layers import output_layers
from pruning_comparison.referee import Inputs, number_elements

NAME = "torch-pruning"


def warm_up(model: nn.Module, inputs: Inputs) -> None:
    """Import and build what the first use of the tool needs, on some tiny model."""
    analyse(model, inputs)


def analyse(model: nn.Module, inputs: Inputs, repeats: int = 1) -> dict[str, float]:
    """Trace and group several times; mean CPU seconds, and bytes over what was resident before."""
    start_bytes = restart_peak()
    built = grouped = 0.0
    for _ in range(repeats):
        start = time.process_time()
        graph = torch_pruning.DependencyGraph().build_dependency(model, inputs, forward_fn=_forward, verbose=False)
        built += time.process_time() - start
        groups = list(graph.get_all_groups())
        grouped += time.process_time() - start
    return {
        "trace_seconds": built / repeats,
        "analysis_seconds": grouped / repeats,
        "peak_bytes": peak_bytes() - start_bytes,
        "groups": len(groups),
    }


def prune(model: nn.Module, inputs: Inputs) -> nn.Module:
    """Choose by magnitude at 0.5, then number the model's elements and return what is left of them.

    All scores are computed before the first group is given out.
    """
    pruner = torch_pruning.pruner.BasePruner(
        model,
        inputs,
        torch_pruning.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=output_layers(model, inputs),
        forward_fn=_forward,
    )
    groups = pruner.step(interactive=True)
    chosen = list(itertools.islice(groups, 1))
    number_elements(model)
    for group in itertools.chain(chosen, groups):
        group.prune()
    return model


def _forward(model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    args, kwargs = inputs
    outputs: Any = model(*args, **kwargs)
    return tuple(output for output in outputs if output.requires_grad)
