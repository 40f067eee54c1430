"""The integers that a model's modules keep: found, tracked, and replaced."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from graphopt.restoring.tracked import Place, Step, TrackedInt
from graphopt.untouched import OWN

LONGEST = 256
"""Longest list whose numbers are looked at: longer ones are tables, not sizes."""

DEEPEST = 6
"""Longest path from a module to a number that is followed."""

FOREIGN = ("torch.", "numpy.", "builtins.", "_thread.", "threading.", "logging.", "weakref.", "re.", "enum.")
"""How the modules of classes begin whose objects keep no sizes of a model."""


def track(model: nn.Module) -> dict[Place, int]:
    """Replace every integer that a module keeps by one that knows its place; each module gets holders of its own.

    Args:
        model: changed in place; nobody else may use it.

    Returns:
        The numbers by place.
    """
    found: dict[Place, int] = {}

    def tracked(place: Place, number: int) -> int:
        found[place] = number
        return TrackedInt(number, place)

    for name, module in model.named_modules():
        tracker = Rebuild(tracked)
        for key, value in list(module.__dict__.items()):
            if key not in OWN:
                module.__dict__[key] = tracker(Place(name, (("attribute", key),)), value)
    return found


class Rebuild:
    """Rebuilds what a module holds with other numbers; what is held twice is rebuilt once.

    Args:
        replace: the new number, from the place and the number there.
        kind: which numbers are replaced.
    """

    def __init__(self, replace: Callable[[Place, Any], Any], kind: type[int | float] = int) -> None:
        self._replace = replace
        self._kind = kind
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []

    def __call__(self, place: Place, value: Any) -> Any:
        """Return what stands for a value that is held at a place: itself, where it holds no number."""
        if type(value) is self._kind:
            return self._replace(place, value)
        if len(place.path) > DEEPEST or not is_holder(value):
            return value
        if id(value) not in self._made:
            self._kept.append(value)
            self._made[id(value)] = value  # a cycle ends here
            self._made[id(value)] = self._rebuilt(place, value)
        return self._made[id(value)]

    def _rebuilt(self, place: Place, value: Any) -> Any:
        changed = {step: self(Place(place.module, (*place.path, step)), held) for step, held in held_by(value)}
        if all(changed[step] is held for step, held in held_by(value)):
            return value
        return with_held(value, changed)


def is_holder(value: Any) -> bool:
    """Tell whether numbers may lie in a value: a list, tuple or dict, or an object of someone's own class."""
    if isinstance(value, list | tuple | dict):
        return len(value) <= LONGEST
    if isinstance(value, functools.partial):
        return True
    if (
        isinstance(value, torch.Tensor | nn.Module | type | enum.Enum)
        or callable(value)
        or not hasattr(value, "__dict__")
    ):
        return False
    return not f"{type(value).__module__}.".startswith(FOREIGN)


def held_by(value: Any) -> Iterator[tuple[Step, Any]]:
    """Yield what a holder holds, with the step to it."""
    if isinstance(value, functools.partial):
        yield from ((("item", key), held) for key, held in enumerate(value.args))
        yield from ((("item", key), held) for key, held in value.keywords.items())
        return
    if isinstance(value, list | tuple):
        yield from ((("item", key), held) for key, held in enumerate(value))
    elif isinstance(value, dict):
        yield from ((("item", key), held) for key, held in list(value.items()))
    if hasattr(value, "__dict__"):
        yield from ((("attribute", key), held) for key, held in list(value.__dict__.items()))


def with_held(value: Any, changed: Mapping[Step, Any]) -> Any:
    """A copy of a holder that holds other things.

    Args:
        value: the holder, left as it is.
        changed: what the copy holds instead, by step.
    """
    if isinstance(value, functools.partial):
        args = [changed.get(("item", key), held) for key, held in enumerate(value.args)]
        keywords = {key: changed.get(("item", key), held) for key, held in value.keywords.items()}
        return functools.partial(value.func, *args, **keywords)
    if isinstance(value, tuple):
        items = [changed.get(("item", key), held) for key, held in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    copied = _bare_copy(value)
    put(copied, changed)
    return copied


def put(value: Any, changed: Mapping[Step, Any]) -> None:
    """Write into a holder that can be written to, past whatever its class does about it."""
    for (kind, key), held in changed.items():
        if kind == "attribute":
            value.__dict__[key] = held
        elif isinstance(value, list):
            list.__setitem__(value, key, held)
        else:
            _dict_class(value).__setitem__(value, key, held)


def _bare_copy(value: Any) -> Any:
    kind: Any = type(value)
    copied = kind.__new__(kind)
    if isinstance(value, list):
        list.extend(copied, value)
    elif isinstance(value, dict):
        for key, held in value.items():
            _dict_class(value).__setitem__(copied, key, held)
    if hasattr(value, "__dict__"):
        copied.__dict__.update(value.__dict__)
    return copied


def _dict_class(value: Any) -> Any:
    """The dict class of the standard library that a dict's class comes from: its own methods may refuse."""
    return next(base for base in type(value).__mro__ if base.__module__ in ("builtins", "collections"))


def assign(model: nn.Module, values: Mapping[Place, int]) -> None:
    """Write numbers into a model; what several modules hold in common stays common where they agree.

    Args:
        model: changed in place.
        values: number by place, also where it stays.
    """
    modules = dict(model.named_modules())
    slots = {place: _slot(modules[place.module], place.path) for place in values}
    wanted: dict[tuple[int, tuple[Step, ...]], set[int]] = {}
    for place, value in values.items():
        wanted.setdefault(slots[place], set()).add(value)
    for place, value in values.items():
        shared = len(wanted[slots[place]]) == 1
        _write(modules[place.module], place.path, value, shared=shared)


def number_at(model: nn.Module, place: Place) -> int | None:
    """The integer that a model keeps at a place, None where it keeps none there."""
    try:
        held: Any = model.get_submodule(place.module)
        for step in place.path:
            held = _held(held, step)
    except (AttributeError, LookupError):
        return None
    return held if isinstance(held, int) and not isinstance(held, bool) else None


def _slot(module: nn.Module, path: tuple[Step, ...]) -> tuple[int, tuple[Step, ...]]:
    """The innermost holder on a path that can be written to, and the steps from there."""
    holder: Any = module
    slot = (id(holder), path)
    for count, step in enumerate(path[:-1], start=1):
        holder = _held(holder, step)
        if not isinstance(holder, tuple | functools.partial):
            slot = (id(holder), path[count:])
    return slot


def _write(holder: Any, path: tuple[Step, ...], value: int, *, shared: bool) -> None:
    if len(path) == 1:
        put(holder, {path[0]: value})
        return
    inner = _held(holder, path[0])
    if not shared or isinstance(inner, tuple | functools.partial):
        inner = _written(inner, path[1:], value, shared=shared)
        put(holder, {path[0]: inner})
    else:
        _write(inner, path[1:], value, shared=shared)


def _written(holder: Any, path: tuple[Step, ...], value: int, *, shared: bool) -> Any:
    """A copy of a holder with another number at the end of a path."""
    if len(path) == 1:
        return with_held(holder, {path[0]: value})
    inner = _held(holder, path[0])
    if shared and not isinstance(inner, tuple | functools.partial):
        _write(inner, path[1:], value, shared=shared)
        return holder
    return with_held(holder, {path[0]: _written(inner, path[1:], value, shared=shared)})


def _held(holder: Any, step: Step) -> Any:
    kind, key = step
    if kind == "attribute":
        return holder.__dict__[key]
    if isinstance(holder, functools.partial):
        return holder.args[key] if isinstance(key, int) else holder.keywords[key]
    return holder[key]
