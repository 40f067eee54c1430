"""Packages that only the demonstrations need."""

import importlib
import sys
from typing import Any

from graphopt.errors import MissingExtraError


def require(module: str) -> Any:
    """Import a module of the extra ``dev``.

    Args:
        module: Dotted name of the module.

    Returns:
        The module.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError("dev") from error


def set_aside_if_broken(module: str) -> None:
    """Let a module that is installed but cannot be imported count as not installed in this process.

    Transformers imports torchvision wherever it finds it, so a torchvision that was built for another torch would take
    models down that have nothing to do with images.

    Args:
        module: Dotted name of the module.
    """
    try:
        importlib.import_module(module)
    except (ImportError, RuntimeError):
        # What Python itself keeps there for a module that must not be found.
        vars(sys)["modules"][module] = None
