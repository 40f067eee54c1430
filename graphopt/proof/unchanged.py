"""An exact rewrite: the outputs stay what they were, on the weights as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from graphopt.errors import VerificationError
from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.proof.check import Check, inputs_of, outputs_of
from graphopt.proof.comparison import TOLERANCE

WHOLE = 0.01
"""Largest share of whole numbers that may differ."""


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
    kinds = [tensor.dtype for tensor in (*program.parameters.values(), *chosen.leaves()) if isinstance(tensor, Tensor)]
    with torch.no_grad():
        return check_outputs(outputs_of(program, chosen), outputs_of(rewritten, chosen), kinds)


def check_outputs(before: Sequence[Tensor], after: Sequence[Tensor], kinds: Iterable[torch.dtype] = ()) -> Check:
    """Compare outputs for the same inputs.

    Args:
        before: what the original gave.
        after: what the rewritten one gave.
        kinds: types that the model computes in, beside those of its outputs; the narrowest says how far rounding moves
            an output of floating-point numbers.

    Raises:
        VerificationError: an output moved by more than rounding, as a share of its norm; of whole numbers, which
            rounding moves where two candidates are as good as equal, more than one in a hundred differs.
    """
    rounding = max((_rounding(kind) for kind in kinds), default=0.0)
    worst = 0.0
    for one, other in zip(before, after, strict=True):
        error = _error(one, other)
        worst = max(worst, error)
        wanted = max(TOLERANCE, rounding, _rounding(one.dtype)) if _is_inexact(one) else WHOLE
        if not error < wanted:
            raise VerificationError(
                f"unchanged: an output moved by {error:.2e} of its norm, wanted below {wanted:.0e}; what was removed "
                "was not dead: please report it with the model"
            )
    return Check("unchanged", worst, f"{len(before)} outputs on the weights as they are")


def _rounding(kind: torch.dtype) -> float:
    """How far sums in another order may move numbers of a type, relative to their norm."""
    return 2 * torch.finfo(kind).eps if kind.is_floating_point and kind.itemsize > 1 else 0.0


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _error(before: Tensor, after: Tensor) -> float:
    """Distance relative to the norm of what was there; infinite where shapes, or places of NaN, differ."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return float("inf")
    if not _is_inexact(before):
        return float((before != after).double().mean()) if before.numel() else 0.0
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
