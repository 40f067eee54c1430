"""Run a user's module and leave every attribute of it as it was."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import _lru_cache_wrapper
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

PLAIN = (dict, OrderedDict, defaultdict, list)
"""Containers whose entries come back; a subclass may refuse to be written, and looks after itself."""

MOST_ENTRIES = 1000
"""Containers with more entries, such as vocabularies, hold nothing that a run changes inside."""

OWN = frozenset(nn.Module().__dict__)
"""What every module keeps for itself."""

_CHANGELESS = frozenset((bool, int, float, str, type(None), nn.Parameter, torch.Tensor))
_NO_HELPERS = (nn.Module, torch.Tensor, type, ModuleType, FunctionType, MethodType)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Undo what the block does to attributes of a module and its submodules.

    Tracing runs a model's own code on stand-ins for tensors; whatever that code keeps for later (a cache, a flag, a
    counter) would otherwise be left on the model. Rebound attributes and the entries of plain dicts and lists come
    back, also those of helper objects that attributes hold; values of tensors are not looked at.
    """
    modules = list(model.modules())
    attributes = [dict(module.__dict__) for module in modules]
    helpers, containers = _reached(value for held in attributes for value in held.values())
    try:
        yield
    finally:
        for module, held in zip(modules, attributes, strict=True):
            module.__dict__.clear()
            module.__dict__.update(held)
        for helper, held in helpers:
            _restore(vars(helper), held)
        for container, before in containers:
            _restore(container, before)
        _forget_calls({type(module) for module in modules})


def _forget_calls(kinds: Iterable[type]) -> None:
    """Empty the caches of methods: a trace leaves stand-ins there, which the next call would take for numbers."""
    for base in {base for kind in kinds for base in kind.__mro__}:
        for method in vars(base).values():
            if isinstance(method, _lru_cache_wrapper) and method.cache_info().currsize:
                method.cache_clear()


def forget_results(model: nn.Module) -> bool:
    """Empty the dictionaries in which modules keep tensors of earlier calls, such as a bias for each device.

    A model that was called before has them in there, and would read them instead of the parameters that they come from.

    Args:
        model: changed in place.

    Returns:
        Whether there were any.
    """
    kept = [
        held
        for module in model.modules()
        for name, held in module.__dict__.items()
        if type(held) is dict and held and name not in OWN and all(torch.is_tensor(one) for one in held.values())
    ]
    for held in kept:
        held.clear()
    return bool(kept)


def _reached(values: Iterable[Any]) -> tuple[list[tuple[Any, dict[str, Any]]], list[tuple[Any, Any]]]:
    """Return the helper objects and the plain containers among values and inside them, each with what it holds."""
    helpers, containers = [], []
    waiting, seen = list(values), set()
    while waiting:
        value = waiting.pop()
        if type(value) in _CHANGELESS or id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) in PLAIN:
            containers.append((value, value.copy()))
            inside = value.values() if isinstance(value, dict) else value
            waiting += inside if len(value) <= MOST_ENTRIES else ()
        elif _is_helper(value):
            helpers.append((value, dict(vars(value))))
            waiting += vars(value).values()
    return helpers, containers


def _is_helper(value: Any) -> bool:
    """Tell whether a value is an object of somebody's own class, such as a scheduler or a table of positions."""
    if isinstance(value, _NO_HELPERS) or not isinstance(getattr(value, "__dict__", None), dict):
        return False
    return type(value).__module__.partition(".")[0] not in ("torch", "builtins", "logging", "threading", "typing")


def _restore(container: Any, before: Any) -> None:
    if len(container) == len(before) and _holds(container, before):
        return
    container.clear()
    if isinstance(container, dict):
        container.update(before)
    else:
        container.extend(before)


def _holds(container: Any, before: Any) -> bool:
    """Tell whether a container holds the very objects that it held before, in their order."""
    if isinstance(container, dict):
        keys = list(container) == list(before)
        return keys and all(container[key] is before[key] for key in container)
    return all(one is other for one, other in zip(container, before, strict=True))
