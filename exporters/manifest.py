"""The list of a saved folder's files, with their sizes and SHA-256 sums, by which damage is noticed."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from graphopt.errors import PlanError

MANIFEST = "manifest.json"
_VERSION = 1


def write_manifest(folder: Path) -> None:
    """List every file under ``folder`` in ``manifest.json``: name, size in bytes, SHA-256.

    Args:
        folder: A folder that nobody else reads yet; an older list in it is replaced.

    Raises:
        OSError: A file cannot be read, or the list cannot be written.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = {
        name: {"sha256": sha256_of(path), "size_bytes": path.stat().st_size}
        for name, path in sorted(paths.items())
        if name != MANIFEST
    }
    text = json.dumps({"version": _VERSION, "files": files}, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def listed_files(folder: Path) -> frozenset[str]:
    """Return the names that a folder's list holds, none where the list is absent or damaged.

    Args:
        folder: A saved folder, or any other.
    """
    try:
        return frozenset(_entries(folder))
    except PlanError:
        return frozenset()


def check_manifest(folder: Path, names: Iterable[str] | None = None) -> None:
    """Compare files with the list that was written beside them.

    Args:
        folder: A saved folder.
        names: The files to check; all that are listed where None.

    Raises:
        PlanError: The list is absent or damaged, or a file is missing, cut short or changed; the message names it.
    """
    entries = _entries(folder)
    for name in sorted(entries) if names is None else names:
        if name not in entries:
            raise PlanError(f"{folder / MANIFEST} does not list {name}; save the result again")
        _check_file(folder / name, entries[name])


def check_sizes(folder: Path, names: Iterable[str]) -> None:
    """Compare the sizes of files with the list that was written beside them, without reading the files.

    Args:
        folder: A saved folder.
        names: The files to check.

    Raises:
        PlanError: The list is absent or damaged, or a file is missing or of another size; the message names it.
    """
    entries = _entries(folder)
    for name in names:
        if name not in entries:
            raise PlanError(f"{folder / MANIFEST} does not list {name}; save the result again")
        _check_size(folder / name, entries[name])


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path, wanted: dict[str, object]) -> None:
    _check_size(path, wanted)
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if digest != wanted.get("sha256"):
        raise PlanError(f"{path} was changed after it was saved (its SHA-256 differs); copy it again or save it again")


def _check_size(path: Path, wanted: dict[str, object]) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    expected = wanted.get("size_bytes")
    if size != expected:
        raise PlanError(f"{path} has {size} bytes where {expected} were saved; copy it again or save the result again")


def _unreadable(path: Path, error: OSError) -> PlanError:
    return PlanError(f"{path} cannot be read ({error.strerror}); copy it again or save the result again")


def _entries(folder: Path) -> dict[str, dict[str, object]]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"{path} cannot be read ({error.strerror}); is {folder} a saved result?") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is damaged ({error}); copy the folder again or save the result again") from error
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise PlanError(f"{path} is not a file list of version {_VERSION}; use the graphopt that saved it")
    files = content.get("files")
    if not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise PlanError(f"{path} is damaged: its 'files' is not a table of sums; save the result again")
    return files


def _is_entry(name: str, entry: object) -> bool:
    path = PurePosixPath(name)
    return isinstance(entry, dict) and not path.is_absolute() and ".." not in path.parts
