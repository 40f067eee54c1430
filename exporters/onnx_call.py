"""How a model is called, as JSON: what of the arguments are inputs of ONNX files, what they return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.errors import GraphoptError, PlanError
from graphopt.input_check import PLAIN

ABSENT = object()
"""Stands for an argument that was not given."""


class Record(dict[str, Any]):
    """A model's output with named fields; they are read by name, as attributes, and by place."""

    def __getattr__(self, name: str) -> Any:
        """Read a field."""
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"the output has no field {name}, it has {', '.join(self)}") from error

    def __getitem__(self, key: Any) -> Any:
        """Read a field by its name, or fields by their places."""
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


def described(value: Any, names: Iterator[str | None]) -> Any:
    """Describe nested values as JSON.

    Args:
        value: Nested arguments or outputs.
        names: For every leaf, in the order of `pytree`, its name in the files; None where it is not there.
    """
    children, structure = pytree.tree_flatten(value, is_leaf=lambda inner: inner is not value)
    if structure.is_leaf():
        return _described_leaf(value, next(names))
    inner = [described(child, names) for child in children]
    if isinstance(value, Mapping):
        return {"record" if type(value) is not dict else "dict": dict(zip(map(str, value), inner, strict=True))}
    fields = getattr(value, "_fields", None)
    if fields is not None:
        return {"record": dict(zip(fields, inner, strict=True))}
    return {"list" if isinstance(value, list) else "tuple": inner}


def bound(wanted: Any, given: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield name and value of every input among arguments.

    Args:
        wanted: What `described` gave.
        given: Nested arguments of the same structure; ABSENT where there are none.
        place: What they are called in messages.

    Raises:
        GraphoptError: An input is absent, or what is no input is not what it was at export.
    """
    kind, content = _entry(wanted)
    if kind == "tensor":
        if given is ABSENT or given is None:
            raise GraphoptError(f"the input {place} is missing; the files were made for a call that gives it")
        yield content, given
    elif kind == "fixed":
        _require_same(content, given, place)
    elif kind in {"tuple", "list"}:
        items = _items(given, len(content), place)
        for number, (inner, item) in enumerate(zip(content, items, strict=True)):
            yield from bound(inner, item, f"{place}[{number}]")
    else:
        yield from _bound_mapping(content, given, place)


def rebuilt(description: Any, values: Mapping[str, Any]) -> Any:
    """Put values into the structure that was described.

    Args:
        description: What `described` gave of outputs.
        values: The outputs by their names in the files.
    """
    kind, content = _entry(description)
    if kind == "tensor":
        return values[content]
    if kind == "fixed":
        return content.get("value")
    if kind in {"dict", "record"}:
        items = {name: rebuilt(inner, values) for name, inner in content.items()}
        return Record(items) if kind == "record" else items
    nested = [rebuilt(inner, values) for inner in content]
    return tuple(nested) if kind == "tuple" else nested


def _described_leaf(value: Any, name: str | None) -> Any:
    if isinstance(value, torch.Tensor) and name is not None:
        return {"tensor": name}
    return {"fixed": {"value": value} if isinstance(value, PLAIN) else {"text": str(value)}}


def _entry(description: Any) -> tuple[str, Any]:
    if isinstance(description, dict) and len(description) == 1:
        kind, content = next(iter(description.items()))
        if kind in {"tensor", "fixed", "tuple", "list", "dict", "record"}:
            return kind, content
    raise PlanError(f"found {description!r} where the schedule describes a value; export the result again")


def _require_same(fixed: Mapping[str, Any], given: Any, place: str) -> None:
    if given is ABSENT or given is None or isinstance(given, torch.Tensor):
        same = given is ABSENT or fixed.get("value") is None
    else:
        same = fixed.get("value") == given if "value" in fixed else fixed.get("text") == str(given)
    if not same:
        wanted = fixed.get("value", fixed.get("text"))
        raise GraphoptError(
            f"the argument {place} is {_shown(given)}, and the files hold {wanted!r}: what is no tensor is fixed in "
            "them; export the model captured with the other value"
        )


def _items(given: Any, count: int, place: str) -> list[Any]:
    if given is ABSENT or given is None:
        return [ABSENT] * count
    if not isinstance(given, tuple | list) or len(given) != count:
        raise GraphoptError(f"the argument {place} is {_shown(given)}, wanted {count} items in a tuple or list")
    return list(given)


def _bound_mapping(wanted: Mapping[str, Any], given: Any, place: str) -> Iterator[tuple[str, Any]]:
    found = {} if given is ABSENT or given is None else given
    if not isinstance(found, Mapping):
        raise GraphoptError(f"the argument {place} is {_shown(given)}, wanted a dict with {', '.join(wanted)}")
    inside = f"{place}." if place else ""
    for name, value in found.items():
        if name not in wanted and value is not None:
            raise GraphoptError(
                f"the argument {inside}{name} is {_shown(value)}, and the files know no such input; export the model "
                "captured with it"
            )
    for name, inner in wanted.items():
        yield from bound(inner, found.get(name, ABSENT), f"{inside}{name}")


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "absent"
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
