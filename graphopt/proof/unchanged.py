"""An exact rewrite: the outputs stay what they were, on the weights as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from graphopt.errors import VerificationError
from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.proof.check import Check, inputs_of, outputs_of
from graphopt.proof.comparison import TOLERANCE


def check_unchanged(program: Program, rewritten: Program, inputs: ExampleInputs | None = None) -> Check:
    """Run both programs on the same inputs and compare.

    Args:
        program: before.
        rewritten: after.
        inputs: what both are called with; the first's example inputs by default.

    Raises:
        VerificationError: an output moved by more than rounding, the largest error relative to the output's norm.
    """
    chosen = inputs_of(program) if inputs is None else inputs
    with torch.no_grad():
        return check_outputs(outputs_of(program, chosen), outputs_of(rewritten, chosen))


def check_outputs(before: list[Tensor], after: list[Tensor]) -> Check:
    """Compare outputs for the same inputs.

    Args:
        before: what the original gave.
        after: what the rewritten one gave.

    Raises:
        VerificationError: an output moved by more than rounding, the largest error relative to the output's norm.
    """
    errors = [_error(one, other) for one, other in zip(before, after, strict=True)]
    worst = max(errors, default=0.0)
    if not worst < _tolerance(before):
        raise VerificationError(
            f"unchanged: an output moved by {worst:.2e} of its norm, wanted below {_tolerance(before):.0e}; what was "
            "removed was not dead: please report it with the model"
        )
    return Check("unchanged", worst, f"{len(before)} outputs on the weights as they are")


def _tolerance(outputs: list[Tensor]) -> float:
    """How far rounding may move outputs of these types, relative to their norm."""
    kinds = [torch.finfo(out.dtype).eps for out in outputs if out.is_floating_point()]
    return max([TOLERANCE, *(8 * eps for eps in kinds)])


def _error(before: Tensor, after: Tensor) -> float:
    """Distance relative to the norm of what was there; infinite where shapes, or places of NaN, differ."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return float("inf")
    kind = torch.complex128 if before.is_complex() else torch.float64
    first, second = before.detach().to(kind), after.detach().to(kind)
    lost = first.isnan()
    if not torch.equal(lost, second.isnan()):
        return float("inf")
    same = lost | (first == second)
    first, second = first.masked_fill(same, 0), second.masked_fill(same, 0)
    if same.all():
        return 0.0
    scale = before.detach().to(kind).masked_fill(lost, 0).norm()
    return float((first - second).norm() / scale) if scale > 0 else float("inf")
