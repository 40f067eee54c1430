"""Operators of a graph as text, and the way back: only to operators of torch and arithmetic of numbers."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

from graphopt.errors import ExportError, PlanError, SpecError
from graphopt.kernels import find_kernel

_HIGHER_ORDER = "higher_order"
_OWN = "graphopt"
_ARITHMETIC = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "pos", "abs", "index"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "xor", "not_", "invert", "lshift", "rshift", "truth"),
    *("is_", "is_not", "getitem"),
)
"""What of `operator` may be named: nothing by which a file could reach attributes of objects or call what it finds."""


def target_text(target: Any) -> str:
    """Return an operator's name in a file, such as ``aten.linear.default`` or ``_operator.getitem``.

    Args:
        target: An overload, a packet or a higher-order operator of `torch.ops`, or a function of numbers out of
            `operator`, `math` or `torch`.

    Raises:
        ExportError: It is something else.
    """
    if isinstance(target, HigherOrderOperator):
        return f"{_HIGHER_ORDER}.{target.name()}"
    if isinstance(target, OpOverload):
        return f"{target.namespace}.{target._schema.name.partition('::')[2]}.{target._overloadname}"
    if isinstance(target, OpOverloadPacket):
        return target._qualified_op_name.replace("::", ".")
    name = str(getattr(target, "__name__", ""))
    for module, functions in _FUNCTIONS.items():
        if functions.get(name) is target:
            return f"{module}.{name}"
    raise ExportError(
        f"the graph calls {target!r}, which is neither an operator of torch.ops nor arithmetic of numbers; "
        "graphopt.capture gives graphs of such operators alone: capture the model again"
    )


def find_target(text: str) -> Callable[..., Any]:
    """Return the operator that `target_text` named.

    Nothing is imported but kernels of graphopt itself, and nothing outside the tables named above is reached.

    Raises:
        PlanError: There is no such operator in this process.
    """
    module, *names = text.split(".")
    if module in _FUNCTIONS:
        found = _FUNCTIONS[module].get(names[0]) if len(names) == 1 else None
    else:
        found = _operator(module, names)
    if found is None:
        raise PlanError(f"found no operator {text!r} in this process; {_advice(module)}")
    return found


def _operator(namespace: str, names: list[str]) -> Callable[..., Any] | None:
    if not 1 <= len(names) <= 2 or not all(name.isidentifier() for name in (namespace, *names)):
        return None
    if namespace == _OWN:
        _register(names[0])
    found: object = getattr(torch.ops, namespace, None)
    for name in names:
        found = getattr(found, name, None)
    return found if isinstance(found, HigherOrderOperator | OpOverload | OpOverloadPacket) else None


def _register(kernel: str) -> None:
    try:
        find_kernel(kernel)
    except SpecError as error:
        raise PlanError(f"found no kernel {_OWN}.{kernel} ({error}); use the graphopt that saved the result") from error


def _advice(namespace: str) -> str:
    if namespace in {"aten", "prims", _HIGHER_ORDER, *_FUNCTIONS}:
        return f"torch {torch.__version__} does not have it: use the torch that saved the result, or save it again"
    return f"import the library that defines the operators of {namespace!r} before the result is loaded"


def _numeric(module: ModuleType) -> dict[str, Callable[..., Any]]:
    return {name: value for name, value in vars(module).items() if inspect.isbuiltin(value)}


def _symbolic() -> dict[str, Callable[..., Any]]:
    found = ((name, value) for name, value in vars(torch).items() if name.startswith(("sym_", "_sym_")))
    return {name: value for name, value in found if inspect.isroutine(value)}


_FUNCTIONS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "_operator": {name: getattr(operator, name) for name in _ARITHMETIC},
    "math": _numeric(math),
    "torch": _symbolic(),
}
