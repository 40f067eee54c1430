"""A run of a program that leaves no trace: inputs, state and random numbers are as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.aliasing import written_attributes
from graphopt.program import Program


def run_apart(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a program returns, with inputs and state left as they were and every random number the same each time."""
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, dict(kwargs)))
    state = {name: program.parameters[name] for name in written_attributes(program.graph_module)}
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = program(*args, **kwargs)
        outputs = pytree.tree_map_only(Tensor, torch.clone, outputs) if state else outputs
        for name, tensor in state.items():
            tensor.copy_(before[name])
    return outputs
