"""Nested example inputs on disk: tensors in safetensors, their nesting in JSON, nothing pickled."""

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graphopt.errors import ExportError, PlanError
from graphopt.exporters.tensor_file import read_tensors, write_tensors

TENSORS = "inputs.safetensors"
STRUCTURE = "inputs.json"
_VERSION = 1
_PLAIN = (type(None), bool, int, str)


def write_inputs(folder: Path, args: tuple[Any, ...], kwargs: Mapping[str, Any], whole: Sequence[str] = ()) -> None:
    """Write the inputs of one call into ``inputs.safetensors`` and ``inputs.json``.

    Args:
        folder: A folder that nobody else reads yet.
        args: Positional inputs: tensors, numbers, strings, None, dtypes and devices, in nested tuples, lists and dicts.
        kwargs: Keyword inputs, of the same kinds.
        whole: Names of the modules that were kept whole when the model was captured with them.

    Raises:
        ExportError: Something is of another kind; the message says where.
        OSError: A file cannot be written.
    """
    tensors: dict[int, torch.Tensor] = {}
    content = {
        "version": _VERSION,
        "args": _encoded(tuple(args), "args", tensors),
        "kwargs": _encoded(dict(kwargs), "kwargs", tensors),
    }
    if whole:
        content["whole"] = [*whole]
    named = {_tensor_name(place): tensor for place, tensor in enumerate(tensors.values())}
    write_tensors(folder / TENSORS, named)
    text = json.dumps(content, indent=2, allow_nan=False)
    (folder / STRUCTURE).write_text(text + "\n", encoding="utf-8")


def read_inputs(folder: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read what `write_inputs` wrote.

    Args:
        folder: A saved folder.

    Returns:
        Positional and keyword inputs; tensors are on the CPU, contiguous, without gradient.

    Raises:
        PlanError: A file is missing or damaged.
    """
    content = _read(folder)
    tensors = read_tensors(folder / TENSORS)
    try:
        if content["version"] != _VERSION:
            raise PlanError(f"{folder / STRUCTURE} is of version {content['version']}, wanted {_VERSION}")
        args, kwargs = (_decoded(content[part], tensors) for part in ("args", "kwargs"))
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise PlanError(f"{folder / STRUCTURE} is damaged ({error!r}); save the result again") from error
    if not isinstance(args, tuple) or not isinstance(kwargs, dict):
        raise PlanError(f"{folder / STRUCTURE} is damaged: no tuple and dict of inputs; save the result again")
    return args, kwargs


def read_whole(folder: Path) -> tuple[str, ...]:
    """Read the names of the modules that were kept whole.

    Args:
        folder: A saved folder.

    Raises:
        PlanError: A file is missing or damaged.
    """
    content = _read(folder)
    names = content.get("whole", []) if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PlanError(f"{folder / STRUCTURE} is damaged: no list of modules; save the result again")
    return tuple(names)


def _read(folder: Path) -> Any:
    try:
        return json.loads((folder / STRUCTURE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PlanError(f"{folder / STRUCTURE} cannot be read ({error}); save the result again") from error


def _encoded(value: Any, place: str, tensors: dict[int, torch.Tensor]) -> dict[str, Any]:
    """Return a value as JSON, collecting its tensors; one that occurs twice is kept once."""
    if isinstance(value, torch.Tensor):
        tensors.setdefault(id(value), value)
        return {"type": "tensor", "name": _tensor_name(list(tensors).index(id(value)))}
    kind = type(value)
    if kind in {tuple, list, torch.Size}:
        items = [_encoded(item, f"{place}[{index}]", tensors) for index, item in enumerate(value)]
        return {"type": _CONTAINERS[kind], "items": items}
    if kind in {dict, OrderedDict}:
        pairs = [
            [_encoded(key, f"the keys of {place}", tensors), _encoded(item, f"{place}[{key!r}]", tensors)]
            for key, item in value.items()
        ]
        return {"type": _CONTAINERS[kind], "items": pairs}
    return _encoded_leaf(value, place)


def _encoded_leaf(value: Any, place: str) -> dict[str, Any]:
    kind = type(value)
    if kind in _PLAIN or (kind is float and math.isfinite(value)):
        return {"type": "value", "value": value}
    if kind is float:
        return {"type": "float", "value": str(value)}
    if kind is complex:
        return {"type": "complex", "value": str(value)}
    if kind is torch.dtype:
        return {"type": "dtype", "value": str(value).removeprefix("torch.")}
    if kind is torch.device:
        return {"type": "device", "value": str(value)}
    raise ExportError(
        f"the example input {place} is a {kind.__module__}.{kind.__qualname__}, which is not written; "
        "capture the model with tensors, numbers, strings and None in tuples, lists and dicts"
    )


def _decoded(content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    kind = content["type"]
    if kind == "tensor":
        return tensors[content["name"]]
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](_decoded(item, tensors) for item in content["items"])
    if kind in _MAPPINGS:
        return _MAPPINGS[kind]((_decoded(key, tensors), _decoded(item, tensors)) for key, item in content["items"])
    return _LEAVES[kind](content["value"])


def _dtype_named(name: str) -> torch.dtype:
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"{name!r} is no dtype")
    return found


def _tensor_name(place: int) -> str:
    return f"input_{place}"


_CONTAINERS: Mapping[type, str] = {
    tuple: "tuple",
    list: "list",
    torch.Size: "size",
    dict: "dict",
    OrderedDict: "ordered_dict",
}
_SEQUENCES: Mapping[str, Callable[..., Any]] = {"tuple": tuple, "list": list, "size": torch.Size}
_MAPPINGS: Mapping[str, Callable[..., Any]] = {"dict": dict, "ordered_dict": OrderedDict}
_LEAVES: Mapping[str, Callable[[Any], Any]] = {
    "value": lambda value: value,
    "float": float,
    "complex": complex,
    "dtype": _dtype_named,
    "device": torch.device,
}
