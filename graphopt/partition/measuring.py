"""Costs by running a program's nodes one by one on this machine."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.aliasing import written_attributes
from graphopt.errors import PlanError
from graphopt.example_inputs import ExampleInputs
from graphopt.partition.costs import CostModel
from graphopt.partition.devices import DEFAULT_KIND
from graphopt.program import Program
from graphopt.wiring import fingerprint


def measured(program: Program, repeats: int = 5, kind: str = DEFAULT_KIND) -> CostModel:
    """Return the least seconds of every operator over some runs on the example inputs, one more to warm up.

    Inputs, state and random numbers are left as they were.

    Args:
        program: runs on the device where its tensors lie.
        repeats: number of timed runs.
        kind: name of this kind of device.

    Raises:
        PlanError: the program is on the meta device, or there are no repeats.
    """
    leaves = ExampleInputs(program.args, dict(program.kwargs)).leaves()
    tensors = [leaf for leaf in (*program.parameters.values(), *leaves) if isinstance(leaf, Tensor)]
    if any(tensor.is_meta for tensor in tensors):
        raise PlanError(
            "found a program on the meta device, wanted one with weights to measure; use a roofline instead"
        )
    if repeats < 1:
        raise PlanError(f"found {repeats} runs to measure, wanted one or more")
    device = tensors[0].device if tensors else torch.device("cpu")
    watch = _Stopwatch(program.graph_module, device)
    for _ in range(repeats + 1):
        _run_apart(program, watch, leaves)
    least = {name: min(times[1:]) for name, times in watch.seconds.items()}
    origin = f"measured on {_name_of(device)}, {torch.get_num_threads()} threads, least of {repeats}"
    return CostModel({kind: least}, fingerprint(program.graph_module), torch.__version__, {kind: origin})


class _Stopwatch(fx.Interpreter):
    """Run a graph and note what each call takes, without what the interpreter itself takes around it."""

    def __init__(self, graph_module: fx.GraphModule, device: torch.device) -> None:
        super().__init__(graph_module)
        self.device = device
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._running = ""

    def run_node(self, n: fx.Node) -> Any:
        """Remember which node runs."""
        self._running = n.name
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator between two readings of the clock; work on a CUDA device is waited for."""
        self._wait()
        start = time.perf_counter()
        result = super().call_function(target, args, kwargs)
        self._wait()
        self.seconds[self._running].append(time.perf_counter() - start)
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _run_apart(program: Program, watch: _Stopwatch, leaves: list[Any]) -> None:
    """Run once on copies of the inputs; put written state back, and draw the same random numbers each time."""
    copies = pytree.tree_map_only(Tensor, torch.clone, leaves)
    state = {name: program.parameters[name] for name in written_attributes(program.graph_module)}
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    on_cuda = [watch.device] if watch.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=on_cuda):
        torch.manual_seed(0)
        watch.run(*copies, enable_io_processing=False)
        for name, tensor in state.items():
            tensor.copy_(before[name])


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
