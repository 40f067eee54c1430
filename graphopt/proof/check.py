"""One checked law, and how a program is run for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.aliasing import written_attributes
from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program


@dataclass(frozen=True)
class Check:
    """One law, checked.

    Attributes:
        law: name of the law.
        error: the largest deviation found; zero means bit-equal.
        detail: what was compared.
    """

    law: str
    error: float
    detail: str


def equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same shape and bits, NaN equal to NaN."""
    return first.shape == second.shape and torch.equal(
        torch.nan_to_num(first.detach()), torch.nan_to_num(second.detach())
    )


def inputs_of(program: Program) -> ExampleInputs:
    """The example inputs of a program."""
    return ExampleInputs(program.args, program.kwargs)


def outputs_of(program: Program, inputs: ExampleInputs) -> list[Tensor]:
    """Every tensor that a program returns, in order; see `run`."""
    return [leaf for leaf in pytree.tree_leaves(run(program, inputs.args, inputs.kwargs)) if isinstance(leaf, Tensor)]


def run(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
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
