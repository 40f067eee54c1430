"""The rewritten program is the oracle: what came back has to compute the same."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphopt.capture_failure import Attempt, summary
from graphopt.errors import ModuleRestoreError, VerificationError
from graphopt.example_inputs import ExampleInputs
from graphopt.preparation import as_captured
from graphopt.program import Program
from graphopt.proof.check import inputs_of, outputs_of
from graphopt.proof.unchanged import check_outputs
from graphopt.values import tensors_in


def require_agreement(restored: nn.Module, program: Program, explain: Callable[[Exception], str]) -> None:
    """Compare a model's outputs with a program's, at two batch sizes where the batch is free.

    Args:
        restored: left in the modes that its modules are in.
        program: the oracle.
        explain: the text of the error, from what the model raised or how far its outputs are.

    Raises:
        ModuleRestoreError: the model raises, or computes something else.
    """
    chosen = [inputs_of(program), *([program.wider_example()] if program.dynamic_batch else [])]
    kinds = {tensor.dtype for tensor in program.parameters.values()}
    for one in chosen:
        with Attempt() as oracle:
            wanted = outputs_of(program, one)
        if oracle.failure is not None:
            raise ModuleRestoreError(
                f"the program itself does not run on {one.batch_size()} rows, so that nothing can be compared: "
                f"{summary(oracle.failure)}; capture the model with inputs of which it takes that many rows"
            ) from oracle.failure
        with Attempt() as attempt:
            found = outputs_apart(restored, one)
        if attempt.failure is not None:
            raise ModuleRestoreError(explain(attempt.failure)) from attempt.failure
        try:
            check_outputs(wanted, found, kinds)
        except (VerificationError, ValueError) as error:
            raise ModuleRestoreError(explain(error)) from error


def outputs_apart(restored: nn.Module, inputs: ExampleInputs) -> list[Tensor]:
    """What a model returns in evaluation form; its modes, state and the inputs stay as they were."""
    modes = [(module, module.training) for module in restored.modules()]
    state = [(buffer, buffer.detach().clone()) for buffer in restored.buffers()]
    inputs = inputs.map_tensors(torch.clone)
    try:
        restored.eval()
        with torch.no_grad(), as_captured(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return [tensor.clone() for tensor in tensors_in(restored(*inputs.args, **inputs.kwargs))]
    finally:
        for module, training in modes:
            module.training = training
        for buffer, before in state:
            if not torch.equal(buffer, before):
                buffer.copy_(before)
