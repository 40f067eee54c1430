"""ONNX files on disk: where they go, how they appear whole, how their weights lie beside them."""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import ExportError
from graphopt.exporters.atomic import MARKER, atomic_files, atomic_folder, is_result, link_file
from graphopt.exporters.manifest import listed_files, write_manifest

if TYPE_CHECKING:
    import onnx_ir as ir

FILE_NAME = "model.onnx"
"""Name of the file where the path given is a folder."""

INLINE_LIMIT_BYTES = 2**30
"""Weights of more bytes than this go into a file of their own; protobuf ends at 2 GiB."""


@contextlib.contextmanager
def onnx_destination(path: str | Path, plan: Mapping[str, Any] | None) -> Iterator[tuple[Path, Path]]:
    """Give a path to write an ONNX file to, and move the file into place when the block ends without an error.

    Args:
        path: A file ending in ``.onnx``, or a folder, made where it is absent. Where it lies in a saved result, that is
            replaced as a whole, with the new files in it and in its manifest.
        plan: What the model came from, for a folder that holds a saved result; None where it is not known.

    Yields:
        Where to write the file, with its weights beside it, and where both will be.

    Raises:
        ExportError: The folder holds the result of another plan, or something cannot be written.
    """
    path = Path(path).resolve()
    is_file = path.suffix == ".onnx" and not path.is_dir()
    if not is_file and not path.exists():
        with atomic_folder(path) as staging:
            yield staging / FILE_NAME, path / FILE_NAME
        return
    file = path if is_file else path / FILE_NAME
    yield from _into_result(file, plan) if is_result(file.parent) else _into_folder(file)


def write_model(model: "ir.Model", path: Path, external_data: bool | None) -> tuple[str, ...]:
    """Write a model and, where they do not go inside it, its weights.

    Args:
        model: The model.
        path: The ``.onnx`` file, in a folder that nobody else reads yet.
        external_data: Whether the weights get a file of their own; None decides by their size.

    Returns:
        The names of the files written.

    Raises:
        ExportError: The weights are too large for one file.
        OSError: A file cannot be written.
    """
    import onnx_ir

    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    size_bytes = sum(tensor.nbytes for tensor in tensors)
    if external_data is None:
        external_data = size_bytes > INLINE_LIMIT_BYTES
    if not external_data:
        if size_bytes >= 2 * INLINE_LIMIT_BYTES:
            raise ExportError(f"weights of {size_bytes} bytes do not fit into an ONNX file; pass external_data=True")
        onnx_ir.save(model, path)
        return (path.name,)
    data_name = f"{path.name}.{_content_hash(model)}.data"
    onnx_ir.save(model, path, external_data=data_name)
    return tuple(name for name in (path.name, data_name) if path.with_name(name).exists())


def check_file(path: Path) -> int:
    """Run the checker of the onnx package over a file, and return its operator set.

    Args:
        path: The ``.onnx`` file.

    Raises:
        ExportError: The checker or its shape inference finds a fault.
    """
    import onnx

    faults: tuple[type[Exception], ...] = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except faults as error:
        raise ExportError(f"onnx.checker finds the exported model invalid: {error}") from error
    imports = onnx.load(str(path), load_external_data=False).opset_import
    return int(next(entry.version for entry in imports if entry.domain in {"", "ai.onnx"}))


@contextlib.contextmanager
def steps_destination(
    path: str | Path, plan: Mapping[str, Any] | None, last: str, old: Callable[[Path], Iterable[str]]
) -> Iterator[tuple[Path, Path]]:
    """Give a folder to write several files to, and put them in place together when the block ends without an error.

    Args:
        path: A folder, made where it is absent. A saved result there is replaced as a whole, with the new files in it
            and in its manifest.
        plan: What the files came from, for a folder that holds a saved result; None where it is not known.
        last: Name of the file that makes the others count.
        old: Tells which files of a folder an earlier export left; those that are not written again are removed.

    Yields:
        Where to write the files, and where they will be.

    Raises:
        ExportError: The folder holds the result of another plan, or something cannot be written.
    """
    folder = Path(path).resolve()
    if not folder.exists():
        with atomic_folder(folder) as staging:
            yield staging, folder
        return
    if folder.is_file():
        raise ExportError(f"{folder} is a file where a folder was to be written; choose another path")
    if is_result(folder):
        before = frozenset(old(folder)) | {last}
        with atomic_folder(folder) as staging:
            _require_same_plan(folder / MARKER, plan)
            for name in listed_files(folder) - before:
                link_file(folder / name, staging / name)
            yield staging, folder
            write_manifest(staging)
        return
    before = frozenset(old(folder))
    with atomic_files(folder, last=last) as staging:
        yield staging, folder
        written = {file.name for file in staging.iterdir()}
    for name in before - written:
        (folder / name).unlink(missing_ok=True)


def _into_folder(path: Path) -> Iterator[tuple[Path, Path]]:
    with atomic_files(path.parent, last=path.name) as staging:
        yield staging / path.name, path
        data = [file.name for file in staging.iterdir()]
    _remove_old_data(path, keep=data)


def _into_result(file: Path, plan: Mapping[str, Any] | None) -> Iterator[tuple[Path, Path]]:
    folder = file.parent
    with atomic_folder(folder) as staging:
        _require_same_plan(folder / MARKER, plan)
        for name in listed_files(folder):
            if name != file.name and not _data_pattern(file.name).fullmatch(name):
                link_file(folder / name, staging / name)
        yield staging / file.name, file
        write_manifest(staging)


def _require_same_plan(marker: Path, plan: Mapping[str, Any] | None) -> None:
    if plan is None:
        return
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{marker} is damaged ({error}); save the result again") from error
    if found != json.loads(json.dumps(plan)):
        raise ExportError(f"{marker} is of another result; save this one there first, or choose another folder")


def _remove_old_data(path: Path, keep: list[str]) -> None:
    """Remove weights that earlier exports to the same file left, as nothing refers to them any more."""
    for file in path.parent.iterdir():
        if _data_pattern(path.name).fullmatch(file.name) and file.name not in keep:
            file.unlink(missing_ok=True)


def _data_pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name) + r"\.[0-9a-f]{16}\.data")


def _content_hash(model: "ir.Model") -> str:
    """Return a hash over the names and values of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.graph.initializers.items()):
        if value.const_value is not None:
            digest.update(f"{name} {value.const_value.dtype} {value.const_value.shape}\n".encode())
            digest.update(value.const_value.tobytes())
    return digest.hexdigest()[:16]
