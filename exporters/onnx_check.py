"""Law 6 as code: an ONNX file computes in ONNX Runtime what its program computes in torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.capture_failure import Attempt
from graphopt.errors import ExportError, ExportMismatchError
from graphopt.exporters.onnx_model import OnnxModel
from graphopt.exporters.runtime import OutputError, compare_output, run_session, session
from graphopt.program import Program
from graphopt.running import run_apart


def verify_onnx(
    program: Program, built: OnnxModel, path: Path, tolerance: float
) -> tuple[tuple[OutputError, ...], tuple[str, ...]]:
    """Compare a file with its program on the example inputs and, where the batch is dynamic, at another size.

    A batch of one is compared too where torch.export does not vouch for it; a difference there is only noted.

    Args:
        program: The program that was exported.
        built: The model that was written, with the places of its inputs and outputs.
        path: The ``.onnx`` file.
        tolerance: Largest error allowed in a floating output, as a fraction of its largest magnitude.

    Returns:
        The errors measured, and notes for the user.

    Raises:
        ExportError: An output differs by more than the tolerance, or ONNX Runtime cannot run the file.
    """
    opened = session(path)
    example = example_batch(program, built)
    sizes = [example] if example is None else [example, _running_batch(program, built, example)]
    errors = [error for size in dict.fromkeys(sizes) for error in _compare(program, built, opened, size, tolerance)]
    require_passed(errors)
    if example is None:
        return tuple(errors), ()
    notes = [] if len(set(sizes)) > 1 else [f"the batch can only be {example}; it was compared at that size alone"]
    alone, note = _compare_alone(program, built, opened, tolerance) if 1 not in sizes else ([], None)
    return (*errors, *alone), (*notes, *([note] if note else []))


def example_batch(program: Program, built: OnnxModel) -> int | None:
    """Batch size of the example inputs; None where the batch is static."""
    leaves = pytree.tree_leaves((program.args, dict(program.kwargs)))
    return min((int(leaves[port.position].shape[0]) for port in built.inputs if port.batched), default=None)


def other_batch(example: int, built: OnnxModel) -> int:
    """Another batch size that torch.export vouches for; the example's where there is none."""
    if built.largest_batch is None or example < built.largest_batch:
        return example + 1
    return max(example - 1, built.smallest_batch)


def _running_batch(program: Program, built: OnnxModel, example: int) -> int:
    """Another batch size that the program itself runs at: twice the example's where rows go together."""
    for size in (other_batch(example, built), 2 * example):
        args, kwargs = resized(program, built, size)
        with Attempt() as attempt:
            run_apart(program, args, kwargs)
        if attempt.failure is None and (built.largest_batch is None or size <= built.largest_batch):
            return size
    return example


def _compare_alone(
    program: Program, built: OnnxModel, opened: Any, tolerance: float
) -> tuple[list[OutputError], str | None]:
    try:
        errors = _compare(program, built, opened, 1, tolerance)
        require_passed(errors)
    except (ExportError, RuntimeError, LookupError) as error:
        return [], f"a batch of 1 does not work ({error}); use {built.smallest_batch} or more"
    return errors, None


def _compare(program: Program, built: OnnxModel, opened: Any, size: int | None, tolerance: float) -> list[OutputError]:
    args, kwargs = resized(program, built, size)
    expected = pytree.tree_leaves(run_apart(program, args, kwargs))
    leaves = pytree.tree_leaves((args, kwargs))
    found = run_session(opened, {port.name: leaves[port.position] for port in built.inputs})
    return [
        compare_output(expected[port.position], array, port.name, size, tolerance)
        for port, array in zip(built.outputs, found, strict=True)
    ]


def resized(program: Program, built: OnnxModel, size: int | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example inputs with rows repeated or left out until the batch has that size.

    An input that has several rows for each of the batch, as in classifier-free guidance, keeps that ratio.
    """
    example = example_batch(program, built)
    leaves, structure = pytree.tree_flatten((program.args, dict(program.kwargs)))
    for port in built.inputs:
        if port.batched and size is not None and example is not None:
            leaf = leaves[port.position]
            rows = torch.arange(leaf.shape[0] * size // example, device=leaf.device) % leaf.shape[0]
            leaves[port.position] = leaf[rows]
    args, kwargs = pytree.tree_unflatten(leaves, structure)
    return args, kwargs


def require_passed(errors: Iterable[OutputError], name: str | None = None) -> None:
    """Refuse errors beyond their tolerance.

    Args:
        errors: What was measured.
        name: Which of several programs it was measured on.

    Raises:
        ExportMismatchError: An output differs by more.
    """
    failed = [error for error in errors if not error.passed]
    if not failed:
        return
    lines = "".join(
        f"\n  {error.name} at batch size {error.batch_size}: relative error {error.relative:.3g}, "
        f"absolute {error.max_absolute:.3g}, allowed {error.tolerance:.3g}"
        for error in failed
    )
    where = "" if name is None else f" in the program {name}"
    raise ExportMismatchError(
        f"ONNX Runtime and torch differ{where}:{lines}\n"
        "nothing was written; a higher opset may help, or pass a tolerance"
    )
