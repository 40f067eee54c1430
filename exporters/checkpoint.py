"""A checkpoint of safetensors, whole or in shards: which tensor lies in which file, and loading it into a module."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from graphopt.errors import PlanError
from graphopt.exporters.tensor_stream import ITEM_BYTES, Entry

INDEX_SUFFIX = ".safetensors.index.json"
WANTED = "wanted a .safetensors file, a .safetensors.index.json beside its shards, or a folder that holds one of them"


@dataclass(frozen=True)
class Checkpoint:
    """Where the tensors of a checkpoint lie; their values stay on the disk.

    Attributes:
        folder: The folder of its files.
        index: Name of its index file, None where one file holds everything.
        files: By name of a file: type and shape of each of its tensors.
        metadata: What the index says beside the place of each tensor.
    """

    folder: Path
    index: str | None
    files: Mapping[str, Mapping[str, Entry]]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entries(self) -> dict[str, Entry]:
        """Type and shape of every tensor by its key."""
        return {key: entry for entries in self.files.values() for key, entry in entries.items()}


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read where the tensors of a checkpoint lie, from the heads of its files alone.

    Args:
        path: An index as Hugging Face writes it, a single file, or a folder that holds one of them.

    Raises:
        PlanError: There is no such file, one is damaged, or the index and its shards disagree.
    """
    place = _file_of(Path(path))
    if not place.name.endswith(INDEX_SUFFIX):
        return Checkpoint(place.parent, None, {place.name: read_head(place)})
    places, metadata = _read_index(place)
    files = {name: read_head(place.parent / name) for name in sorted(set(places.values()))}
    _require_agreement(place, places, files)
    return Checkpoint(place.parent, place.name, files, metadata)


def load_checkpoint(module: nn.Module, path: str | Path, *, prefix: str = "", wrapped: str = "") -> None:
    """Put the values of a checkpoint into a module, one file at a time.

    Values keep the checkpoint's type. A tensor of the module on the meta device is replaced, tied names together.

    Args:
        module: What `Result.module` gives, for a checkpoint that `apply_plan` wrote with the same plan; or any other.
        path: As for `open_checkpoint`.
        prefix: What the keys have in front of the module's names, such as ``model.``.
        wrapped: What the module's names have in front of the keys.

    Raises:
        PlanError: The checkpoint cannot be read or does not fit, or a tensor stays without a value. Where names or
            shapes do not fit, nothing was written.
    """
    checkpoint = open_checkpoint(path)
    tensors = _tensors_of(module)
    ties: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        ties.setdefault(id(tensor), []).append(name)
    names = {key: wrapped + key.removeprefix(prefix) for key in checkpoint.entries if key.startswith(prefix)}
    _require_fit(checkpoint, module, tensors, ties, names)
    for file, entries in checkpoint.files.items():
        for key, value in _values(checkpoint.folder / file, entries):
            held = tensors[names[key]]
            _put(module, ties[id(held)], held, value)
    left = [name for name, tensor in _tensors_of(module).items() if tensor.is_meta]
    if left:
        raise PlanError(
            f"{some(left)} are on the meta device and no checkpoint holds them, the model computes them itself; "
            "build the model on a device with values"
        )


def read_head(path: Path) -> dict[str, Entry]:
    """Return type and shape of each tensor of a file.

    Raises:
        PlanError: It is missing or damaged, or has a type of less than a byte.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            entries = {key: Entry(part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
    except (OSError, safetensors.SafetensorError) as error:
        raise PlanError(f"{path} cannot be read ({error}); {WANTED}") from error
    for key, entry in entries.items():
        if entry.dtype not in ITEM_BYTES:
            known = ", ".join(ITEM_BYTES)
            raise PlanError(f"{key} in {path} is of type {entry.dtype}, wanted one of {known}; convert it first")
    return entries


def _tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers by name; tied names give the same object."""
    named: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    return named | dict(module.named_buffers(remove_duplicate=False))


def _values(path: Path, keys: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
    with safetensors.safe_open(path, framework="pt") as file:
        for key in keys:
            yield key, file.get_tensor(key)


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{INDEX_SUFFIX}")) or sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise PlanError(f"found {len(found)} checkpoints in {path} ({names}), wanted one; name the file itself")
    return found[0]


def _read_index(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        places = {str(key): str(name) for key, name in content["weight_map"].items()}
        metadata = dict(content.get("metadata", {}))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PlanError(f"{path} is no index of a checkpoint ({error!r}); {WANTED}") from error
    outside = [name for name in places.values() if Path(name).name != name or not name.endswith(".safetensors")]
    if outside:
        raise PlanError(f"{path} names {outside[0]!r} as a shard, wanted the name of a .safetensors file beside it")
    return places, metadata


def _require_agreement(index: Path, places: Mapping[str, str], files: Mapping[str, Mapping[str, Entry]]) -> None:
    for key, name in places.items():
        if key not in files[name]:
            raise PlanError(f"{index} says that {key} lies in {name}, which does not hold it; copy both again")
    for name, entries in files.items():
        strange = [key for key in entries if places.get(key) != name]
        if strange:
            raise PlanError(f"{name} holds {some(strange)}, of which {index} says nothing; copy both again")


def _require_fit(
    checkpoint: Checkpoint,
    module: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    ties: Mapping[int, list[str]],
    names: Mapping[str, str],
) -> None:
    entries = checkpoint.entries
    found = {name for name in names.values() if name in tensors}
    strange = [key for key in entries if names.get(key) not in tensors]
    saved = [name for name in module.state_dict(keep_vars=True) if name in tensors]
    missing = [name for name in saved if found.isdisjoint(ties[id(tensors[name])])]
    if strange or missing:
        faults = [f"the checkpoint has {some(strange)}, the module does not"] if strange else []
        faults += [f"the module has {some(missing)}, the checkpoint does not"] if missing else []
        raise PlanError(
            f"{checkpoint.folder} does not fit the module: {'; '.join(faults)}; load it into what the same plan made "
            "of the model, with the prefix or wrapped that it was written with"
        )
    for key, entry in entries.items():
        shape = tuple(tensors[names[key]].shape)
        if shape != entry.shape:
            raise PlanError(
                f"{key} is {list(entry.shape)} in the checkpoint and {list(shape)} in the module; load it into what "
                "the same plan made of the model"
            )


def _put(module: nn.Module, names: Sequence[str], held: torch.Tensor, tensor: torch.Tensor) -> None:
    """Write a value under every name of a tensor, in place where type and device allow it."""
    if not held.is_meta and held.dtype == tensor.dtype:
        with torch.no_grad():
            held.copy_(tensor)
        return
    # A tensor of a file is a window on it; the module outlives the file.
    value = tensor.to("cpu" if held.is_meta else held.device, copy=True)
    new = nn.Parameter(value, requires_grad=held.requires_grad) if isinstance(held, nn.Parameter) else value
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, new)


def some(names: Sequence[str]) -> str:
    """Return the first names of several, and how many more there are."""
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
