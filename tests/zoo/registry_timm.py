"""The registry of timm, by family: module and line of names, such as the ``gernet`` of ``byobnet``."""

import copy
import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import timm
import torch
from timm.models import _registry
from torch import nn
from zoo import timm_models
from zoo.attempt import Attempt
from zoo.catalogue import normal, tensors
from zoo.shrinking import is_depth, is_image, shrunk

LIBRARY = "timm"

_ORIGIN = re.compile(r"^(test|tf|legacy|gluon|tv|ssl|swsl|ig|dm|jx|adv|ens)_")
_LINE = re.compile(r"^[a-z]+?(?:v\d+)?(?=\d|_|$)")
_SIDES = (64, 128, 160, 224)


def family(name: str, module: str | None = None) -> str:
    """Module and line of an architecture's name, without who trained it: ``byobnet/gernet``."""
    line = _LINE.match(_ORIGIN.sub("", name))
    assert line is not None
    return f"{module or _registry._model_to_module[name]}/{line[0]}"


@functools.cache
def families() -> dict[str, tuple[str, ...]]:
    """Names of the registered architectures of each family."""
    found: dict[str, list[str]] = {}
    for name in timm.list_models(exclude_filters="test_*"):
        found.setdefault(family(name), []).append(name)
    return {name: tuple(members) for name, members in sorted(found.items())}


def covered() -> set[str]:
    """Families of the hand-shrunk entries; one made from its class is named after its line."""
    named = {family(name) for name, _, _ in timm_models.NAMED}
    return named | {family(name, made.__module__.rpartition(".")[2]) for name, made, _, _ in timm_models.CLASSES}


def attempts(name: str) -> Iterator[Attempt]:
    """The smallest architecture of the family, with as many of its options small as it takes."""
    smallest = min(families()[name], key=_parameters)
    made, options = _recorded(smallest)
    own = max(timm.get_pretrained_cfg(smallest, allow_unregistered=False).input_size[1:])
    sides = sorted({*_SIDES, own})  # some count on the resolution that they were trained at
    for only in (lambda option: True, lambda option: is_depth(option) or is_image(option), is_image):
        small = shrunk(options, only)
        for side in sides:
            yield _attempt(made, small, side)
    for side in sides:
        yield _attempt(made, options, side)


def _attempt(made: type[nn.Module], options: Mapping[str, Any], side: int) -> Attempt:
    sides = {key: _square(value, side) for key, value in options.items() if is_image(key)}
    classes = {"num_classes": 10} if "num_classes" in options else {}
    return Attempt(lambda: made(**copy.deepcopy({**options, **sides, **classes})), tensors(normal(2, 3, side, side)))


def _square(value: object, side: int) -> object:
    return (side, side) if isinstance(value, (tuple, list)) else side


@functools.cache
def _parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name).parameters())


def _recorded(name: str) -> tuple[type[nn.Module], dict[str, Any]]:
    """Class of a registered architecture and the options that it is made with, defaults too."""
    with torch.device("meta"):
        made = type(timm.create_model(name))
        calls: list[inspect.BoundArguments] = []
        original = made.__init__

        def record(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            calls.append(inspect.signature(original).bind(self, *copy.deepcopy(args), **copy.deepcopy(kwargs)))
            original(self, *args, **kwargs)

        with mock.patch.object(made, "__init__", record):
            timm.create_model(name)
    bound = calls[0]
    bound.apply_defaults()
    kinds = inspect.signature(original).parameters
    (_, *options) = bound.arguments.items()
    named = {key: value for key, value in options if kinds[key].kind is not inspect.Parameter.VAR_KEYWORD}
    rest = [value for key, value in options if kinds[key].kind is inspect.Parameter.VAR_KEYWORD]
    return made, named | (rest[0] if rest else {})
