"""What an ONNX export was asked for and what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graphopt.exporters.onnx_model import OnnxModel
from graphopt.exporters.runtime import OutputError
from graphopt.program import Program


@dataclass(frozen=True, kw_only=True)
class OnnxReport:
    """What was written, and how it compares with torch.

    Attributes:
        path: The ``.onnx`` file; the folder where each program of a schedule has a file.
        files: All files written.
        size_bytes: Their size together.
        opset: The operator set of the file, read back from it.
        operators: Number of nodes; of the full program where there are several.
        inputs: Names of the inputs, in order; of the full program where there are several.
        outputs: Names of the outputs, in order; of the full program where there are several.
        dynamic_batch: Whether dimension 0 of the inputs is free; it is then called ``batch``.
        batch_sizes: The batch sizes it was compared at; empty where it was not compared, or the batch is static.
        errors: One entry for each output and batch size; empty where it was not compared.
        notes: What a user should know, such as inputs that became constants.
        seconds: Time the export took, in seconds.
        programs: A report for the file of each program of a schedule, by id; empty otherwise. The time is that of all.
    """

    path: Path
    files: tuple[Path, ...]
    size_bytes: int
    opset: int
    operators: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic_batch: bool
    batch_sizes: tuple[int, ...]
    errors: tuple[OutputError, ...]
    notes: tuple[str, ...]
    seconds: float
    programs: Mapping[str, OnnxReport] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """What an export was asked for.

    Attributes:
        opset: Operator set to write.
        dynamic: Leave the batch free where the program's batch is.
        external_data: Put weights into a file of their own; None decides by their size.
        verify: Compare with torch.
        tolerance: Largest error allowed as a fraction of an output's largest magnitude.
        properties: Goes into the files' ``metadata_props``.
    """

    opset: int
    dynamic: bool
    external_data: bool | None
    verify: bool
    tolerance: float
    properties: Mapping[str, str]


def batch_sizes(errors: tuple[OutputError, ...]) -> tuple[int, ...]:
    """The batch sizes that were compared, in order."""
    return tuple(dict.fromkeys(error.batch_size for error in errors if error.batch_size is not None))


def batch_notes(program: Program, built: OnnxModel, dynamic: bool) -> tuple[str, ...]:
    """Why the batch is fixed, where that was not asked for; and what is taken for granted about the inputs' data."""
    if not dynamic or any(port.batched for port in built.inputs):
        return () if program.assumptions is None else program.assumptions.notes()
    return program.notes or ("the batch is fixed at the example's",)


def opset_notes(wanted: int, written: int) -> tuple[str, ...]:
    """That another operator set was written than was asked for."""
    return () if written == wanted else (f"opset {wanted} was asked for and opset {written} was written",)
