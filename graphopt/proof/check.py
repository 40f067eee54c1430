"""One checked law, and how a program is run for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.running import run_apart
from graphopt.values import tensors_in


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
    """Every tensor that a program returns, in order."""
    return tensors_in(run_apart(program, inputs.args, inputs.kwargs))
