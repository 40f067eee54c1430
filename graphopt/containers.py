"""Objects of the user's that hold tensors, such as caches and dataclasses: taken apart and put together like dicts."""

import copyreg
import datetime
import enum
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.capture_failure import Attempt

_ATOMS = (torch.Tensor, int, float, complex, str, bytes, type(None), nn.Module, type)
_NEW: Any = vars(copyreg)["__newobj__"]
_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size)
_VALUES = (enum.Enum, slice, range, set, frozenset, PurePath, datetime.date, datetime.timedelta)
_SETTINGS = (*_TORCH, *_VALUES)
"""What is one value, though copying would take some of it apart."""


def register_containers(values: Any) -> None:
    """Register every class of an object in nested values with torch.utils._pytree, if copying takes such objects apart.

    A container of tensors, numbers and flags is then part of the structure of the values, as a dict is. Torch's table
    of classes is one for the process, and keeps them; a class that is in it stays as it is.
    """
    _make_known(values, frozenset())


def _make_known(values: Any, outer: Collection[int]) -> None:
    for leaf in pytree.tree_leaves(values):
        if id(leaf) not in outer:
            _make_class_known(leaf, {*outer, id(leaf)})


def _make_class_known(leaf: Any, outer: Collection[int]) -> None:
    """Register the class of one object, after those of the objects in it; none that holds itself, or an unknown one."""
    if isinstance(leaf, (*_ATOMS, *_SETTINGS)) or callable(leaf) or type(leaf) in pytree.SUPPORTED_NODES:
        return
    with Attempt() as attempt:
        parts = _parts(leaf)
        _make_known(parts.contents, outer)
        inside = pytree.tree_leaves(parts.contents)
    if attempt.failure is not None or type(leaf) in pytree.SUPPORTED_NODES:  # one inside it may be of the same class
        return
    if all(isinstance(item, (*_ATOMS, *_SETTINGS)) or callable(item) for item in inside):
        _register(type(leaf))


@dataclass(frozen=True)
class _Parts:
    """An object as copying sees it.

    Attributes:
        called: Whether its class is called to make it; else it begins as an empty object of its class.
        contents: Arguments of that, state, items of a list, items of a mapping.
    """

    called: bool
    contents: tuple[tuple[Any, ...], Any, list[Any], dict[Any, Any]]


def _parts(value: Any) -> _Parts:
    """Take an object apart.

    Raises:
        TypeError: It has a way of its own to be copied.
    """
    reduced: Any = value.__reduce_ex__(4)
    make, args, state, items, pairs = (*reduced, None, None, None)[:5]
    if make is not type(value) and (make is not _NEW or args[0] is not type(value)):
        raise TypeError(f"{type(value).__name__} is copied in a way of its own")
    own = args if make is type(value) else args[1:]
    return _Parts(make is type(value), (own, state, list(items or ()), dict(pairs or ())))


@dataclass(frozen=True)
class _Form:
    """What an object is beside its leaves: how it is made, how they are nested, and settings among them."""

    called: bool
    spec: pytree.TreeSpec
    settings: tuple[tuple[int, Any], ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Form":
        return self


def _register(kind: type) -> None:
    def flatten(value: Any) -> tuple[list[Any], _Form]:
        pairs, form = flatten_with_keys(value)
        return [leaf for _, leaf in pairs], form

    def flatten_with_keys(value: Any) -> tuple[list[tuple[Any, Any]], _Form]:
        parts = _parts(value)
        paths, spec = pytree.tree_flatten_with_path(parts.contents)
        settings = tuple((place, leaf) for place, (_, leaf) in enumerate(paths) if _is_setting(leaf))
        pairs = [(pytree.GetAttrKey(_name(path)), leaf) for path, leaf in paths if not _is_setting(leaf)]
        return pairs, _Form(parts.called, spec, settings)

    def unflatten(leaves: Any, form: _Form) -> Any:
        everything = list(leaves)
        for place, setting in form.settings:
            everything.insert(place, setting)
        return _put_together(kind, form.called, pytree.tree_unflatten(everything, form.spec))

    pytree.register_pytree_node(kind, flatten, unflatten, flatten_with_keys_fn=flatten_with_keys)


def _put_together(kind: type, called: bool, contents: Any) -> Any:
    args, state, items, pairs = contents
    made = kind(*args) if called else kind.__new__(kind, *args)
    if hasattr(made, "__setstate__") and state is not None:
        made.__setstate__(state)
    else:
        plain, slots = state if isinstance(state, tuple) else (state, None)
        for name, value in {**(plain or {}), **(slots or {})}.items():
            object.__setattr__(made, name, value)
    if items:
        made.extend(items)
    for key, value in pairs.items():
        made[key] = value
    return made


def _is_setting(leaf: Any) -> bool:
    return isinstance(leaf, (*_SETTINGS, type)) or callable(leaf)


def _name(path: tuple[Any, ...]) -> str:
    """The name of a leaf: where it is in the state of its object."""
    keys = [getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path[1:]]
    return "_".join(map(str, keys))
