"""Run a user's module and leave every attribute of it as it was."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

PLAIN = (dict, OrderedDict, defaultdict, list)
"""Containers whose entries come back; a subclass may refuse to be written, and looks after itself."""


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Undo what the block does to attributes of a module and its submodules.

    Tracing runs a model's own code on stand-ins for tensors; whatever that code keeps for later (a cache, a flag, a
    counter) would otherwise be left on the model. Rebound attributes and the entries of plain dicts and lists held
    by attributes come back; values of tensors are not looked at.
    """
    modules = list(model.modules())
    attributes = [dict(module.__dict__) for module in modules]
    contents = [
        (container, container.copy()) for held in attributes for container in held.values() if type(container) in PLAIN
    ]
    try:
        yield
    finally:
        for module, held in zip(modules, attributes, strict=True):
            module.__dict__.clear()
            module.__dict__.update(held)
        for container, before in contents:
            _restore(container, before)


def _restore(container: Any, before: Any) -> None:
    container.clear()
    if isinstance(container, dict):
        container.update(before)
    else:
        container.extend(before)
