"""Where the model of a saved result is built, kept beside the result as ``origin.json``."""

import contextlib
import json
import os
from pathlib import Path

from graphopt.cli.targets import Target
from graphopt.errors import PlanError
from graphopt.exporters.atomic import atomic_folder, link_file
from graphopt.exporters.manifest import listed_files, write_manifest

ORIGIN = "origin.json"
_VERSION = 1


class _WritableError(Exception):
    """Leaves a folder as it is, once it is known that it can be written."""


def require_writable(folder: Path) -> None:
    """Check that a result can be saved to a folder, before the work of making one; the folder is left as it is.

    Raises:
        ExportError: It cannot be written, or holds what is no saved result.
    """
    with contextlib.suppress(_WritableError), atomic_folder(folder):
        raise _WritableError


def record_origin(folder: Path, target: Target) -> None:
    """Add ``origin.json`` to a saved result; the folder is replaced in one step.

    A file is told relative to the folder, so that both can be moved together and no path of the machine is kept.

    Args:
        folder: The saved result.
        target: What built the model.

    Raises:
        ExportError: The folder cannot be written.
    """
    place = target.place if target.path is None else _relative(target.path, folder)
    content = {"version": _VERSION, "place": place, "name": target.name, "is_file": target.path is not None}
    with atomic_folder(folder) as staging:
        for name in listed_files(folder):
            link_file(folder / name, staging / name)
        (staging / ORIGIN).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        write_manifest(staging)


def read_origin(folder: Path) -> Target:
    """Return what built the model of a saved result.

    Args:
        folder: The saved result.

    Raises:
        PlanError: It is not known, or no longer where it was.
    """
    path = folder / ORIGIN
    advice = "tell where the model is built: --model my_model.py:build"
    if not path.is_file():
        raise PlanError(f"{folder} does not say where its model is built; {advice}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        place, name = str(content["place"]), str(content["name"])
        is_file = bool(content["is_file"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise PlanError(f"{path} is damaged ({error!r}); {advice}") from error
    if not is_file:
        return Target(place, name)
    file = Path(os.path.normpath(folder / place))
    if not file.is_file():
        raise PlanError(f"the model of {folder} was built by {name} in {file}, which is not there; {advice}")
    return Target(str(file), name)


def _relative(path: Path, folder: Path) -> str:
    """Return a path as seen from a folder; on another drive it stays whole."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()
