"""Keys that are equal for parts of a graph of equal structure, and the user's module that a part came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from graphopt.cost import integer_shape


def structure_key(nodes: Sequence[fx.Node]) -> str:
    """Return a key of some nodes in the order of execution: operators, options, shapes and wiring, not weights.

    Values from outside count by their shape and by which of them are the same.
    """
    numbers: dict[fx.Node, str] = {}
    digest = hashlib.sha256()
    for node in nodes:
        if node.op == "get_attr":
            continue
        parts = [str(node.target), str(integer_shape(node.meta.get("val"))), _text((node.args, node.kwargs), numbers)]
        numbers[node] = f"%{len(numbers)}"
        digest.update("|".join(parts).encode())
    return digest.hexdigest()[:12]


def module_of(nodes: Iterable[fx.Node]) -> str:
    """Return the dotted path of the innermost module of the user's model that holds all of some nodes."""
    paths = [_module_path(node) for node in nodes]
    if not paths:
        return ""
    shared = paths[0]
    for path in paths[1:]:
        length = next((i for i, pair in enumerate(zip(shared, path, strict=False)) if pair[0] != pair[1]), None)
        shared = shared[: min(len(shared), len(path)) if length is None else length]
    return ".".join(shared)


def _module_path(node: fx.Node) -> list[str]:
    stack: Any = node.meta.get("nn_module_stack")
    if not isinstance(stack, Mapping) or not stack:
        return []
    path = str(list(stack.values())[-1][0])
    return path.split(".") if path else []


def _text(value: Any, numbers: dict[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        if value not in numbers:
            numbers[value] = f"<{len(numbers)}:{integer_shape(value.meta.get('val'))}"
        return numbers[value]
    if isinstance(value, tuple | list):
        return f"[{','.join(_text(item, numbers) for item in value)}]"
    if isinstance(value, Mapping):
        return _text([item for pair in sorted(value.items()) for item in pair], numbers)
    return str(value)
