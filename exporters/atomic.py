"""Files and folders that appear whole or not at all.

Everything is written into a hidden sibling folder, synced to disk, and only then moved into place by a rename. A
process killed at any moment leaves what was there before or what was to come; its hidden folder is cleared away by the
next save beside it, which knows by a lock that the owner is gone. A folder that replaces another one trades places
with it in one step (``renameat2`` with ``RENAME_EXCHANGE``). Where the system has no such call the old folder is set
aside under a fixed name, and `recover` puts it back when a process died between the two renames.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from graphopt.errors import ExportError
from graphopt.exporters.manifest import MANIFEST, listed_files

if sys.platform != "win32":
    import fcntl

MARKER = "plan.json"
"""A folder whose manifest lists this file is a saved result."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_ADVICE = {
    errno.ENOSPC: "free some space on the disk",
    errno.EDQUOT: "free some space in your quota",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EACCES: "choose a place where you may write",
    errno.EPERM: "choose a place where you may write",
    errno.EROFS: "choose a place where you may write",
    errno.EBUSY: "it may be a mount point: choose a folder inside it",
    errno.EXDEV: "it may belong to the layer of a container's image: choose another folder",
}


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder to write into, and put it at ``path`` when the block ends without an error.

    Args:
        path: Where the folder shall be: an absent or empty folder, or a saved result, which is replaced.

    Yields:
        The folder to write into, a hidden sibling of ``path``.

    Raises:
        ExportError: ``path`` holds files that are not of a saved result or is read-only, or something cannot be
            written. What was at ``path`` is then still there, unchanged.
    """
    target = Path(path).resolve()
    with _reported(target):
        _require_parent(target)
        recover(target)
        _require_replaceable(target)
        with _staging(target) as staging:
            yield staging
            _sync_tree(staging)
            _require_replaceable(target)
            _put_in_place(staging, target)


@contextlib.contextmanager
def atomic_files(folder: str | Path, last: str) -> Iterator[Path]:
    """Give an empty folder to write into, and move its files into ``folder`` when the block ends without an error.

    Each file replaces the one of its name in one step. Of several files the one named ``last`` goes last: where it
    alone refers to the others, and they have new names, a reader never sees files that do not fit together.

    Args:
        folder: An existing folder; its other files are left alone.
        last: Name of the file that makes the others count.

    Yields:
        The folder to write into, hidden inside ``folder``.

    Raises:
        ExportError: Something cannot be written; the files of ``folder`` are then still there, unchanged.
    """
    target = Path(folder).resolve() / last
    with _reported(target):
        _require_parent(target)
        with _staging(target) as staging:
            yield staging
            _sync_tree(staging)
            for source in sorted(staging.iterdir(), key=lambda source: (source.name == last, source.name)):
                source.replace(target.parent / source.name)
            _sync_folder(target.parent)


def atomic_file(path: str | Path, content: bytes) -> None:
    """Write a file so that a reader sees its old content or its new content, whole.

    Args:
        path: The file; its folder must exist. A symbolic link is followed.
        content: All of the new content.

    Raises:
        ExportError: The file cannot be written; its old content is then still there.
    """
    target = Path(path).resolve()
    with atomic_files(target.parent, last=target.name) as staging:
        (staging / target.name).write_bytes(content)


def recover(path: str | Path) -> None:
    """Finish what a process that was killed while it replaced a folder has left undone.

    Needed only where two folders cannot trade places in one step; a no-op everywhere else.

    Args:
        path: The folder about to be read or replaced.

    Raises:
        ExportError: The old folder cannot be put back.
    """
    target = Path(path).resolve()
    aside = _aside(target)
    if not aside.exists():
        return
    with _reported(target):
        if not target.exists():
            aside.rename(target)
        shutil.rmtree(aside, ignore_errors=True)


def is_result(folder: Path) -> bool:
    """Tell whether a folder is a saved result: its manifest lists a plan that is there.

    Args:
        folder: Any path.
    """
    return (folder / MARKER).is_file() and MARKER in listed_files(folder)


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot; folders on the way are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def foreign_files(folder: Path) -> list[str]:
    """Return the files under ``folder`` that no saved result put there, as sorted relative names.

    Args:
        folder: An existing folder.
    """
    ours = {MANIFEST, *listed_files(folder)} if is_result(folder) else set()
    names = (
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )
    return sorted(name for name in names if name not in ours)


def _require_parent(target: Path) -> None:
    if not target.parent.is_dir():
        raise ExportError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")


def _require_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ExportError(f"{target} is a file where a folder was to be written; choose another path")
    if target.is_mount() or Path.cwd().is_relative_to(target):
        raise ExportError(
            f"{target} is the working directory or a mount point, which cannot be replaced in one step; "
            f"save to a folder inside it, such as {target / 'result'}"
        )
    if not os.access(target, os.W_OK):
        raise ExportError(f"{target} may not be written to: allow it (chmod u+w), or choose another folder")
    foreign = foreign_files(target)
    if foreign:
        shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise ExportError(
            f"{target} holds {len(foreign)} files that no saved result put there ({shown}); saving would delete them: "
            "move them away or choose another folder"
        )


@contextlib.contextmanager
def _reported(target: Path) -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "see the error above")
        raise ExportError(f"could not write {target} ({error}); {advice}; nothing was changed there") from error


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """Make a hidden locked folder beside the target, and remove what is left of it in the end."""
    _clear_abandoned(target)
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    staging.mkdir()
    try:
        with _locked(staging):
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _clear_abandoned(target: Path) -> None:
    """Remove hidden folders of earlier saves to the same target whose process is gone."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{8}\.partial")
    for path in target.parent.iterdir():
        if not pattern.fullmatch(path.name):
            continue
        with _locked(path) as abandoned:
            if abandoned:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder that ends with the process; False where another holds it, or there are no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _put_in_place(staging: Path, target: Path) -> None:
    occupied = target.exists() and any(target.iterdir())
    if not occupied:
        staging.rename(target)
    elif not _exchange(staging, target):
        _replace_in_two_steps(staging, target)
    _sync_folder(target.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Let two names trade places in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    names = _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second)
    if renameat2(*names, _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))


def _replace_in_two_steps(staging: Path, target: Path) -> None:
    aside = _aside(target)
    target.rename(aside)
    try:
        staging.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync_folder(Path(parent))


def _sync_folder(folder: Path) -> None:
    """Sync the names in a folder; some systems and network file systems do not know how, and need no more."""
    if sys.platform == "win32":
        return
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP}:
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
