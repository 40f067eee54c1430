"""Models of packages that need not be installed: imported when built, named when missing."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn
from zoo.catalogue import Entry, Inputs, entry

Options = dict[str, Any]
Row = tuple[str, str | Callable[[], nn.Module], Options, Callable[[], Inputs]]
"""Name of the entry, ``module:Class`` or a function that makes the model, options of the model, inputs."""


class NotInstalledError(ImportError):
    """The package of an entry is not installed; the message says how to get it."""


def rows(package: str, *listed: Row) -> tuple[Entry, ...]:
    """Entries of one package, named ``package-name``.

    Args:
        package: Import name of the package.
        listed: Its models.
    """
    return tuple(
        entry(f"{package}-{name}", "others", partial(_build, package, model, options), inputs)
        for name, model, options, inputs in listed
    )


def _build(package: str, model: str | Callable[..., nn.Module], options: Options) -> nn.Module:
    if find_spec(package) is None:
        raise NotInstalledError(f"{package} is not installed; run: pip install --no-deps -r tests/zoo/packages.txt")
    if not isinstance(model, str):
        return model(**options)
    module, _, name = model.partition(":")
    made: nn.Module = getattr(import_module(module), name)(**options)
    return made
