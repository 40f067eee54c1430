"""What to tell the user when a model cannot be captured."""

import linecache
import sysconfig
import textwrap
import traceback
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import nn

from graphopt.errors import CaptureError

TORCH = f"{Path(torch.__file__).parent}/"
"""The folder of torch, with its end: torchvision is not torch."""

FOREIGN = (TORCH, f"{Path(__file__).parent}/", f"{Path(sysconfig.get_paths()['stdlib'])}/")
"""Folders whose code is not the user's model."""

DATA_ADVICE = (
    "the graph would depend on the values of a tensor; replace the Python branch or number taken from a tensor by "
    "torch.where, torch.cond or masking, or put that code into a module of its own, which capture(..., opaque=[its "
    "name]) keeps whole"
)
TYPE_ADVICE = (
    "register the class with torch.export.register_dataclass, or choose inputs with which the model takes and returns "
    "tensors, tuples, lists and dicts only, such as use_cache=False for language models of transformers"
)
ADVICE = (
    (("data-dependent", "DataDependent", "unbacked"), DATA_ADVICE),
    (("register_pytree", "register_dataclass", "Unsupported input type", "not a known type"), TYPE_ADVICE),
)
DEFAULT_ADVICE = "write that line with tensor operations, or capture the part of the model that leaves it out"


class Attempt:
    """Runs foreign code, of which anything may be raised, and keeps the failure instead of passing it on.

    Attributes:
        failure: What the block raised, None where it ended well.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Keep an ordinary exception; an interrupt or an exit goes on its way."""
        if isinstance(failure, Exception):
            self.failure = failure
        return isinstance(failure, Exception)

    def failed(self) -> Exception:
        """Return the failure of a block that is known to have failed."""
        return self.failure or CaptureError("the block ended well")


def explain_raise(model: nn.Module, failure: Exception) -> CaptureError:
    """Return the error for a model whose own `forward` raises on the example inputs."""
    return CaptureError(
        f"{type(model).__name__}.forward raises on the example inputs: {type(failure).__name__}: {failure}"
        f"{source_line(failure)}; make the model run on these inputs, then capture again"
    )


def explain_export(model: nn.Module, failure: Exception) -> CaptureError:
    """Return the error for a model that runs but cannot be written as a graph."""
    return CaptureError(
        f"{type(model).__name__} runs but cannot be captured as a graph: {summary(failure)}; {_advice(failure)}"
    )


def explain_transform(model: nn.Module, where: str) -> CaptureError:
    """Return the error for a model that takes gradients when it runs, at a place such as " (file:line: code)"."""
    return CaptureError(
        f"{type(model).__name__} runs but cannot be captured as a graph: it takes gradients of its own, by "
        f"torch.autograd.grad or a transform of torch.func such as grad or jvp{where}; write its result as an "
        "expression there, or put that code into a module of its own, which capture(..., opaque=[its name]) keeps whole"
    )


def summary(failure: Exception) -> str:
    """Return kind, first line, operator and source line of a failure, on one line."""
    first = next((line.strip() for line in str(failure).splitlines() if line.strip()), "no message")
    first = textwrap.shorten(first, 200, placeholder=" ...")
    operator = getattr(failure, "func", None)
    named = f" at operator {operator}" if operator is not None else ""
    return f"{type(failure).__name__}: {first}{named}{source_line(failure)}"


def source_line(failure: BaseException) -> str:
    """Return " (file:line: code)" of the deepest frame in the model's own code, empty where there is none."""
    frames = [frame for cause in _chain(failure) for frame in traceback.extract_tb(cause.__traceback__)]
    own = [frame for frame in frames if not frame.filename.startswith((*FOREIGN, "<"))]
    if not own or own[-1].lineno is None:
        return ""
    return f" ({code_line(own[-1].filename, own[-1].lineno)})"


def raised_by_statement(failure: BaseException) -> bool:
    """Tell whether code outside torch raised an exception on purpose, by `raise` or `assert`."""
    frame = traceback.extract_tb(failure.__traceback__)[-1]
    return not frame.filename.startswith(FOREIGN) and (frame.line or "").startswith(("raise ", "assert ", "assert("))


def code_line(filename: str, number: int) -> str:
    """Return "file:line: code", without the code where there is no such file."""
    code = linecache.getline(filename, number).strip()
    return f"{filename}:{number}: {code}" if code else f"{filename}:{number}"


def _chain(failure: BaseException) -> list[BaseException]:
    """Return a failure preceded by its causes, the first cause last: its frames lie deepest."""
    chain: list[BaseException] = []
    cause: BaseException | None = failure
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


def _advice(failure: Exception) -> str:
    text = f"{type(failure).__name__} {failure}"
    for signs, advice in ADVICE:
        if any(sign in text for sign in signs):
            return advice
    return DEFAULT_ADVICE
