"""Which modules of a model are kept whole, and a model in which they are."""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from graphopt.capture_failure import Attempt, explain_raise, summary
from graphopt.errors import CaptureError
from graphopt.example_inputs import ExampleInputs
from graphopt.opaque import opaque
from graphopt.parts import Part, Shell
from graphopt.preparation import prepared

ASKED = "capture was asked to"
MOST_NAMED = 4
"""How many modules a note names."""

_CONSTANT = (int, float, bool, str, complex, type(None), torch.dtype, torch.device)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_Failures = dict[str, CaptureError]


def asked_for(model: nn.Module, patterns: Iterable[str]) -> dict[str, str]:
    """Return the modules that somebody wants kept whole, outermost ones only, each with the reason.

    Args:
        model: The model.
        patterns: Dotted names, or patterns of such as a shell reads them.

    Raises:
        CaptureError: One of them matches no module inside the model.
    """
    if isinstance(patterns, str):
        raise CaptureError(f"opaque is the text {patterns!r}, wanted several patterns; pass ({patterns!r},)")
    names = [name for name, _ in model.named_modules() if name]
    found: dict[str, str] = {}
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise CaptureError(
                f"opaque={pattern!r} matches no module inside {type(model).__name__}, wanted a dotted name as "
                f"named_modules() gives it, such as {_shown(names[-MOST_NAMED:])}"
            )
        found |= dict.fromkeys(matched, ASKED)
    return outermost(found)


def outermost(reasons: Mapping[str, str]) -> dict[str, str]:
    """Leave out modules inside of others."""
    return {name: why for name, why in reasons.items() if not any(name.startswith(f"{other}.") for other in reasons)}


def require_suitable(model: nn.Module, inputs: ExampleInputs, reasons: Mapping[str, str]) -> None:
    """Run a model with some modules kept whole.

    Raises:
        CaptureError: One of them cannot be, or the model raises.
    """
    failures: _Failures = {}
    with Attempt() as attempt:
        failures = _tried(model, inputs, reasons)
    if attempt.failure is not None:
        raise explain_raise(model, attempt.failure) from attempt.failure
    for failure in failures.values():
        raise failure


def widened(model: nn.Module, inputs: ExampleInputs, reasons: Mapping[str, str]) -> dict[str, str]:
    """Return the modules, or where one cannot be kept whole the closest one around it that can; none if that is all.

    Args:
        model: Left as it was. It has weights.
        inputs: The example.
        reasons: Why each module is to be kept whole, by its dotted name.
    """
    wanted = outermost(reasons)
    while wanted and not any(_holds_all(model, name) for name in wanted):
        failures = _tried(model, inputs, wanted)
        if not failures:
            return wanted
        wanted = outermost({_around(name) if name in failures else name: why for name, why in wanted.items()})
    return {}


def notes_on(reasons: Mapping[str, str]) -> tuple[str, ...]:
    """Return one remark for each reason."""
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name)
    return tuple(f"kept whole: {_shown(several)}, as {why}" for why, several in names.items())


@contextmanager
def kept_whole(model: nn.Module, reasons: Mapping[str, str], failures: _Failures | None = None) -> Iterator[None]:
    """Let some modules of a model be one operator each, for a while.

    Args:
        model: Afterwards it is as it was.
        reasons: Why each module is, by its dotted name.
        failures: Takes what is wrong with those that cannot be, which then run as they are; without it they raise.

    Raises:
        CaptureError: A module cannot be copied.
    """
    modules = {name: model.get_submodule(name) for name in reasons}
    before = {name: dict(module.__dict__) for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.__dict__["forward"] = _as_operator(name, module, reasons[name], failures)
        yield
    finally:
        for name, module in modules.items():
            module.__dict__.pop("forward")
            module.__dict__.update({"forward": before[name]["forward"]} if "forward" in before[name] else {})


def _as_operator(name: str, module: nn.Module, why: str, failures: _Failures | None) -> Callable[..., Any]:
    """Return what a module does, as one operator."""
    original = module.forward
    shell = _without_weights(name, module, why)
    parts: list[Part] = []

    def called(args: Any, kwargs: Any) -> Any:
        leaves, takes = pytree.tree_flatten((args, kwargs))
        fixed = {place: leaf for place, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}
        _require_constants(name, "takes", fixed.values())
        part = next((one for one in parts if (one.takes, one.fixed) == (takes, fixed)), None)
        if part is None:
            part = Part(shell, takes, fixed)
            parts.append(part)
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        held = [_tensor(module, key) for key in shell.tensors]
        if failures is not None:
            _require_sizes(part, given, held)
        return part.returned(opaque(given, held, name, serial=part.serial))

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if failures is None:
            return called(args, kwargs)
        with Attempt() as attempt:
            return called(args, kwargs)
        failures.setdefault(name, _explained(name, attempt.failed()))
        return original(*args, **kwargs)

    return forward


def _without_weights(name: str, module: nn.Module, why: str) -> Shell:
    """Copy a module without what its parameters and buffers hold, and without its hooks, which run around it."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
    with Attempt() as attempt:
        copied = copy.deepcopy(module, memo).eval()
        for hooks in _HOOKS:
            getattr(copied, hooks).clear()
        tensors = (*copied.named_parameters(), *copied.named_buffers())
        return Shell(name, copied, why, tuple([key for key, _ in tensors]))
    raise _explained(name, attempt.failed()) from attempt.failure


def _tensor(module: nn.Module, key: str) -> Tensor:
    owner, _, leaf = key.rpartition(".")
    found: Tensor = getattr(module.get_submodule(owner), leaf)
    return found


def _require_constants(name: str, does: str, leaves: Iterable[Any]) -> None:
    strange = [leaf for leaf in leaves if not isinstance(leaf, _CONSTANT)]
    if strange:
        raise CaptureError(
            f"{name} cannot be kept whole: it {does} a {type(strange[0]).__name__}, wanted tensors and constants; keep "
            "a module around it whole"
        )


def _require_sizes(part: Part, given: Sequence[Tensor], held: Sequence[Tensor]) -> None:
    """Refuse a module that gives other sizes on the example than on other data of its sizes."""
    results = part.results([tensor.clone() for tensor in given], held)
    _require_constants(part.name, "returns", (part.constants or {}).values())
    part.require_layouts(given, held, results)


def _explained(name: str, failure: Exception) -> CaptureError:
    if isinstance(failure, CaptureError):
        return failure
    return CaptureError(f"{name} cannot be kept whole: {summary(failure)}; keep a module around it whole")


def _tried(model: nn.Module, inputs: ExampleInputs, reasons: Mapping[str, str]) -> dict[str, CaptureError]:
    """Run a model on its example with modules kept whole; return those that cannot be, and why."""
    failures: _Failures = {}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    inputs = inputs.map_tensors(torch.clone)
    with prepared(model), torch.no_grad(), torch.random.fork_rng(devices=[]), kept_whole(model, reasons, failures):
        functional_call(model, buffers, inputs.args, dict(inputs.kwargs))
    return failures


def _around(name: str) -> str:
    return name.rpartition(".")[0]


def _holds_all(model: nn.Module, name: str) -> bool:
    """Tell whether nothing of a model would be left to rewrite with a module kept whole."""
    inside = {id(parameter) for parameter in model.get_submodule(name).parameters()}
    return not name or all(id(parameter) in inside for parameter in model.parameters())


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"
