"""Arguments of operators as JSON: plain values as they are, everything else under one key that tells its kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

from graphopt.errors import ExportError
from graphopt.exporters.graph_targets import find_target, target_text

_TORCH_KINDS: Mapping[type, str] = {
    torch.dtype: "dtype",
    torch.layout: "layout",
    torch.memory_format: "memory_format",
}


def encoded(value: Any, where: str) -> Any:
    """Return an argument as values that JSON knows.

    Args:
        value: A node, None, a number, a string, a type, device, layout or memory format of torch, a slice, an
            operator, or a tuple, list or dict of such.
        where: What it belongs to, for messages.

    Raises:
        ExportError: It is of another kind.
    """
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [encoded(item, where) for item in value]}
    if isinstance(value, list):
        return [encoded(item, where) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encoded(key, where), encoded(item, where)] for key, item in value.items()]}
    if isinstance(value, slice):
        return {"slice": [encoded(part, where) for part in (value.start, value.stop, value.step)]}
    return _encoded_leaf(value, where)


def decoded(content: Any, nodes: Mapping[str, fx.Node]) -> Any:
    """Return the argument that `encoded` wrote.

    Args:
        content: What JSON gave.
        nodes: The nodes made so far, by name.

    Raises:
        LookupError: A node is not there yet, or the kind is unknown.
        PlanError: An operator among the arguments is unknown.
        TypeError: The content is of no kind that `encoded` writes.
        ValueError: The content is of no kind that `encoded` writes.
    """
    if content is None or isinstance(content, bool | int | float | str):
        return content
    if isinstance(content, list):
        return [decoded(item, nodes) for item in content]
    ((kind, inner),) = content.items()
    if kind == "node":
        return nodes[inner]
    if kind == "tuple":
        return tuple(decoded(item, nodes) for item in inner)
    if kind == "slice":
        return slice(*(decoded(part, nodes) for part in inner))
    if kind == "dict":
        return {decoded(key, nodes): decoded(item, nodes) for key, item in inner}
    return _LEAVES[kind](inner)


def torch_name(value: Any) -> str:
    """Return the name of a type, layout or memory format of torch, such as ``float32``."""
    return str(value).removeprefix("torch.")


def dtype_named(name: str) -> torch.dtype:
    """Return the type of that name.

    Raises:
        TypeError: There is none.
    """
    found: torch.dtype = _named(torch.dtype)(name)
    return found


def _encoded_leaf(value: Any, where: str) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, complex):
        return {"complex": [str(value.real), str(value.imag)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if value is Ellipsis:
        return {"ellipsis": None}
    if isinstance(value, HigherOrderOperator | OpOverload | OpOverloadPacket):
        return {"operator": target_text(value)}
    for kind, name in _TORCH_KINDS.items():
        if isinstance(value, kind):
            return {name: torch_name(value)}
    raise ExportError(
        f"an argument of {where} is a {type(value).__module__}.{type(value).__qualname__}, which is not written; "
        "graphopt.capture gives graphs of numbers, strings and types alone: capture the model again"
    )


def _named(kind: type) -> Callable[[str], Any]:
    def find(name: str) -> Any:
        found = vars(torch).get(name)
        if not isinstance(found, kind):
            raise TypeError(f"{name!r} is no {kind.__name__}")
        return found

    return find


_LEAVES: Mapping[str, Callable[[Any], Any]] = {
    "float": float,
    "complex": lambda parts: complex(*map(float, parts)),
    "device": torch.device,
    "ellipsis": lambda _: Ellipsis,
    "operator": find_target,
    **{name: _named(kind) for kind, name in _TORCH_KINDS.items()},
}
