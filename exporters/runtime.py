"""Running ONNX files in ONNX Runtime, and comparing what comes out with torch."""

import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphopt.errors import ExportError, MissingExtraError

TOLERANCES: Mapping[torch.dtype, float] = {
    torch.float64: 1e-5,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""Largest error allowed by default, as a fraction of an output's largest magnitude; whole numbers must be equal."""

_CPU = ("CPUExecutionProvider",)
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class OutputError:
    """How far one output of the ONNX file is from torch's.

    Attributes:
        name: Name of the output in the file.
        batch_size: Rows of the inputs it was compared on; None where the batch is static.
        max_absolute: Largest absolute difference; infinite where one of the two alone is not finite.
        relative: ``max_absolute`` over the largest magnitude in torch's output.
        tolerance: The largest ``relative`` that was allowed.
    """

    name: str
    batch_size: int | None
    max_absolute: float
    relative: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.relative <= self.tolerance


def require_onnx() -> None:
    """Check that the packages of the extra ``onnx`` are there.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in _PACKAGES):
        raise MissingExtraError("onnx")


def session(path: str | Path, threads: int = 1, providers: Sequence[Any] | None = None) -> Any:
    """Open an ONNX file in ONNX Runtime.

    Args:
        path: The ``.onnx`` file.
        threads: Threads that one operator may use; 0 lets ONNX Runtime choose.
        providers: Execution providers, the CPU's by default.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        ExportError: ONNX Runtime cannot load the file.
    """
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    failures: tuple[type[Exception], ...] = (*runtime_errors(), ValueError)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers or _CPU))
    except failures as error:
        raise ExportError(
            f"ONNX Runtime cannot load {Path(path).name}: {error}; another opset or float32 may help"
        ) from error


def run_onnx(path: str | Path, inputs: Mapping[str, Any] | Sequence[Any], threads: int = 1) -> list[np.ndarray]:
    """Run an ONNX file once in ONNX Runtime on the CPU.

    Args:
        path: The ``.onnx`` file.
        inputs: Tensors or arrays, by name or in the order of the file's inputs.
        threads: Threads that one operator may use.

    Returns:
        The outputs in the order of the file.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        ExportError: The inputs do not fit, or ONNX Runtime cannot load or run the file.
    """
    opened = session(path, threads)
    names = [node.name for node in opened.get_inputs()]
    feeds = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=False))
    if set(feeds) != set(names) or len(inputs) != len(names):
        found = sorted(inputs) if isinstance(inputs, Mapping) else f"{len(inputs)} values"
        raise ExportError(f"{path} takes the inputs {names}, found {found}; give each of them once")
    return run_session(opened, feeds)


def run_session(opened: Any, feeds: Mapping[str, Any]) -> list[np.ndarray]:
    """Run an open session once.

    Args:
        opened: An ``onnxruntime.InferenceSession``.
        feeds: Tensors or arrays by input name; names that the session has dropped as unused are left out.

    Returns:
        The outputs in the order of the file.

    Raises:
        ExportError: The inputs do not fit, or ONNX Runtime fails.
    """
    wanted = {node.name for node in opened.get_inputs()}
    arrays = {name: to_array(value) for name, value in feeds.items() if name in wanted}
    failures: tuple[type[Exception], ...] = (*runtime_errors(), ValueError)
    try:
        outputs: list[np.ndarray] = opened.run(None, arrays)
    except failures as error:
        raise ExportError(f"ONNX Runtime failed: {error}") from error
    return outputs


def to_array(value: Any) -> np.ndarray:
    """Return a tensor or an array as a contiguous array on the CPU.

    Args:
        value: A tensor of any shape and device, or whatever numpy makes an array of. A complex tensor gets a last
            dimension of 2, its real and imaginary part, as it has in an ONNX file.

    Raises:
        ExportError: Its dtype is one that numpy does not have, such as bfloat16.
    """
    if not isinstance(value, torch.Tensor):
        return np.asarray(value, order="C")
    tensor = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    try:
        return tensor.detach().cpu().contiguous().resolve_neg().numpy()
    except TypeError as error:
        raise ExportError(
            f"ONNX Runtime takes no {value.dtype} from Python; export in float32 or float16, or pass verify=False"
        ) from error


def compare_output(
    expected: torch.Tensor, found: np.ndarray, name: str, batch_size: int | None, tolerance: float
) -> OutputError:
    """Compare one output of the file with torch's.

    Args:
        expected: Torch's output, any shape.
        found: ONNX Runtime's, of the same shape.
        name: Name of the output.
        batch_size: Rows of the inputs; None where the batch is static.
        tolerance: Largest relative error allowed where the output is floating or complex; otherwise it is 0.

    Raises:
        ExportError: The shapes differ.
    """
    inexact = expected.dtype.is_floating_point or expected.dtype.is_complex
    wanted = to_array(expected.float() if expected.dtype == torch.bfloat16 else expected)
    if wanted.shape != found.shape:
        raise ExportError(
            f"output {name!r} has shape {list(found.shape)} in ONNX Runtime where torch gives {list(wanted.shape)} "
            f"(batch size {batch_size}); a size was fixed on the way: export with dynamic=False, or report it"
        )
    absolute, scale = _difference(wanted, found)
    relative = absolute / scale if scale > 0 and math.isfinite(absolute) else absolute
    allowed = tolerance if inexact else 0.0
    return OutputError(name=name, batch_size=batch_size, max_absolute=absolute, relative=relative, tolerance=allowed)


def default_tolerance(dtypes: Iterable[torch.dtype]) -> float:
    """Return the tolerance of the coarsest of some dtypes; that of float32 where none is known.

    Args:
        dtypes: Dtypes of the values that are computed on the way.
    """
    known = [TOLERANCES[dtype] for dtype in dtypes if dtype in TOLERANCES]
    return max(known, default=TOLERANCES[torch.float32])


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the classes of ONNX Runtime's errors, which have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _difference(expected: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Return the largest absolute difference and the largest finite magnitude of what was expected."""
    left, right = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    finite = np.isfinite(left) & np.isfinite(right)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return math.inf, 1.0
    scale = float(np.abs(left[finite]).max(initial=0.0))
    return float(np.abs(left[finite] - right[finite]).max(initial=0.0)), scale
