"""A run of a program that leaves no trace: inputs, state and random numbers are as they were."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.aliasing import written_attributes
from graphopt.program import Program


def run_apart(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a program returns, with inputs and state left as they were and every random number the same each time."""
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, dict(kwargs)))
    with _apart(program) as has_state:
        outputs = program(*args, **kwargs)
        return pytree.tree_map_only(Tensor, torch.clone, outputs) if has_state else outputs


def values_apart(program: Program, wanted: Container[fx.Node] | None = None) -> dict[fx.Node, Any]:
    """What nodes of a program give on its example inputs, with all left as it was, as `run_apart` leaves it.

    Args:
        program: the program.
        wanted: nodes of its outermost graph; all of them by default.
    """
    leaves = pytree.tree_leaves((program.args, dict(program.kwargs)))
    interpreter = _Keeping(program.graph_module, wanted)
    with _apart(program):
        interpreter.run(*pytree.tree_map_only(Tensor, torch.clone, leaves), enable_io_processing=False)
    return interpreter.values


@contextmanager
def _apart(program: Program) -> Iterator[bool]:
    """Put state and random numbers back after a run; tell whether there is state."""
    state = {name: program.parameters[name] for name in written_attributes(program.graph_module)}
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            yield bool(state)
        finally:
            for name, tensor in state.items():
                tensor.copy_(before[name])


class _Keeping(fx.Interpreter):
    """Runs a graph and keeps copies of what operators give: others may write to it later."""

    def __init__(self, graph_module: fx.GraphModule, wanted: Container[fx.Node] | None) -> None:
        super().__init__(graph_module)
        self._wanted = wanted
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if self._wanted is None or n in self._wanted:
            made = n.op == "call_function"
            self.values[n] = pytree.tree_map_only(Tensor, torch.clone, value) if made else value
        return value
