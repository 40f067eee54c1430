"""Measured seconds of every operator of a program on its example inputs."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from typing import Any

import torch
from torch import fx

from graphopt.errors import GraphoptError
from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program

REPEATS = 5


class _Stopwatch(fx.Interpreter):
    """Run a graph and note what each operator takes; work on a CUDA device is waited for."""

    def __init__(self, graph_module: fx.GraphModule, device: torch.device) -> None:
        super().__init__(graph_module)
        self.device = device
        self.seconds: defaultdict[fx.Node, list[float]] = defaultdict(list)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node between two readings of the clock."""
        self._wait()
        start = time.perf_counter()
        result = super().run_node(n)
        self._wait()
        self.seconds[n].append(time.perf_counter() - start)
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def operator_seconds(program: Program) -> dict[fx.Node, float]:
    """Return the median seconds of every operator over a few runs, one more to warm up.

    Raises:
        GraphoptError: The program is on the meta device and cannot run.
    """
    tensors = list(program.parameters.values())
    leaves = ExampleInputs(program.args, dict(program.kwargs)).leaves()
    tensors += [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if any(tensor.is_meta for tensor in tensors):
        raise GraphoptError("found a program on the meta device, wanted one with weights; leave out measure=True")
    watch = _Stopwatch(program.graph_module, tensors[0].device if tensors else torch.device("cpu"))
    with torch.no_grad():
        for _ in range(REPEATS + 1):
            watch.run(*leaves, enable_io_processing=False)
    return {node: statistics.median(times[1:]) for node, times in watch.seconds.items() if node.op == "call_function"}
