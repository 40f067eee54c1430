"""What to tell the user when a model cannot be captured."""

import linecache
import sysconfig
import textwrap
import traceback
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from graphopt.errors import CaptureError

TORCH = f"{Path(torch.__file__).parent}/"
"""The folder of torch, with its end: torchvision is not torch."""

FOREIGN = (TORCH, f"{Path(__file__).parent}/", f"{Path(sysconfig.get_paths()['stdlib'])}/")
"""Folders whose code is not the user's model."""

RECURRENT = ("torch/nn/modules/rnn.py", "torch/nn/utils/rnn.py")
"""Ends of the names of files that hold recurrent layers and their packed sequences."""

DATA_ADVICE = (
    "the graph would depend on the values of a tensor; replace the Python branch or number taken from a tensor by "
    "torch.where, torch.cond or masking, or put that code into a module of its own, which capture(..., opaque=[its "
    "name]) keeps whole"
)
TYPE_ADVICE = (
    "register the class with torch.export.register_dataclass, or choose inputs with which the model takes and returns "
    "tensors, tuples, lists and dicts only, such as use_cache=False for language models of transformers"
)
PACKED_ADVICE = (
    "the recurrent layer is given a packed sequence, whose sizes the data decide; capture the model with its weights "
    "and with specialise=True, or give the layer the padded tensor (what one direction puts out is the same up to the "
    "end of each sequence)"
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


def require_module(model: object) -> None:
    """Refuse what no capture begins with.

    Raises:
        CaptureError: It is no module, or one that is scripted, compiled, has no sizes yet, or names that a graph needs.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError("the model is a ScriptModule, wanted the nn.Module it was scripted from; capture that one")
    if not isinstance(model, nn.Module):
        raise CaptureError(f"the model is a {type(model).__name__}, wanted an nn.Module; wrap it in one")
    if "_orig_mod" in model._modules:
        raise CaptureError("the model comes out of torch.compile, wanted the plain one; capture model._orig_mod")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"{name} is a ScriptModule, wanted the nn.Module it was scripted from; put that one into the model"
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise CaptureError(f"{name} has no size yet; run the model once on the example, then capture it")
    empty = fx.GraphModule(nn.Module(), fx.Graph())
    taken = [name for name in {*model._parameters, *model._buffers, *model._modules} if hasattr(empty, name)]
    if taken:
        raise CaptureError(
            f"{type(model).__name__} has {sorted(taken)}, names that a graph module keeps for itself; rename them in "
            "the model and capture again"
        )


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
    frames = [frame for cause in causes(failure) for frame in traceback.extract_tb(cause.__traceback__)]
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


def causes(failure: BaseException) -> list[BaseException]:
    """Return a failure preceded by its causes, the first cause last: its frames lie deepest."""
    chain: list[BaseException] = []
    cause: BaseException | None = failure
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


def _is_in_recurrent_layer(failure: Exception) -> bool:
    """Tell whether torch's recurrent layers, or its packing for them, fail: they do on what they unpack alone."""
    frames = [frame for cause in causes(failure) for frame in traceback.extract_tb(cause.__traceback__)]
    return any(frame.filename.endswith(RECURRENT) for frame in frames)


def _advice(failure: Exception) -> str:
    if _is_in_recurrent_layer(failure):
        return PACKED_ADVICE
    text = f"{type(failure).__name__} {failure}"
    for signs, advice in ADVICE:
        if any(sign in text for sign in signs):
            return advice
    return DEFAULT_ADVICE
