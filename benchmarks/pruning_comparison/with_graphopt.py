"""graphopt's side."""

import time

from process_memory import peak_bytes, restart_peak
from torch import nn

import graphopt
from graphopt.dependency.registry import rule_table
from graphopt.rewrite.replay import replay
from pruning_comparison.referee import Inputs, number_elements

NAME = "graphopt"


def warm_up(model: nn.Module, inputs: Inputs) -> None:
    """Import and build what the first use of the tool needs, on some tiny model."""
    rule_table()
    analyse(model, inputs)


def analyse(model: nn.Module, inputs: Inputs, repeats: int = 1) -> dict[str, float]:
    """Capture once and group several times; mean CPU seconds, and bytes over what was resident before."""
    start_bytes = restart_peak()
    start = time.process_time()
    program = graphopt.capture(model, *inputs)
    captured = time.process_time()
    for _ in range(repeats):
        groups = graphopt.DependencyGraph(program).groups
    return {
        "trace_seconds": captured - start,
        "analysis_seconds": (time.process_time() - captured) / repeats,
        "peak_bytes": peak_bytes() - start_bytes,
        "groups": len(groups),
    }


def prune(model: nn.Module, inputs: Inputs) -> nn.Module:
    """Choose by magnitude at 0.5, then number the model's elements and return what is left of them."""
    program = graphopt.capture(model, *inputs)
    pipeline = graphopt.Pipeline("prune-channels{ratio=0.5}")
    result = pipeline.run(program, graphopt.PassContext(verify=False))
    number_elements(model)  # the program's parameters lie in the same storage
    return replay(result.plan, program).module()
