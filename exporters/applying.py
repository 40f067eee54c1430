"""Applying a plan to a checkpoint on the disk, shard by shard, so that it may be larger than memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from graphopt.errors import ExportError, PlanError
from graphopt.exporters.atomic import MARKER, atomic_folder
from graphopt.exporters.checkpoint import Checkpoint, open_checkpoint, read_head
from graphopt.exporters.checkpoint_names import Naming, match_names
from graphopt.exporters.manifest import write_manifest
from graphopt.exporters.tensor_stream import Entry, write_stream
from graphopt.plan import Plan

UNKNOWN = ("refuse", "copy", "drop")


@dataclass(frozen=True, kw_only=True)
class AppliedPlan:
    """What was written.

    Attributes:
        folder: The new folder.
        files: Bytes of each file of weights by its name.
        bytes_before: Bytes of all tensors in the old checkpoint.
        bytes_after: Bytes of all tensors in the new one.
        changed: Keys of tensors that are smaller now.
        added: Keys of biases that took over what removed channels gave constantly.
        left_out: Keys of tensors that are not in the new checkpoint: those of bypassed layers, and unknown ones that
            were dropped.
    """

    folder: Path
    files: Mapping[str, int]
    bytes_before: int
    bytes_after: int
    changed: tuple[str, ...]
    added: tuple[str, ...]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON knows."""
        return {
            "folder": str(self.folder),
            "files": dict(self.files),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "changed": list(self.changed),
            "added": list(self.added),
            "left_out": list(self.left_out),
        }


def apply_plan(
    plan: Plan | str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    prefix: str = "",
    wrapped: str = "",
    unknown: str = "refuse",
    watch: Callable[[str], None] = lambda file: None,
) -> AppliedPlan:
    """Carry out a plan on a checkpoint of safetensors; one tensor at a time is in memory, and one shard mapped.

    Everything is checked before anything is written. Shards keep their names, keys and texts, tensors their types. The
    folder gets the weights, their index and ``plan.json``, and no other file: a ``config.json`` beside the old weights
    describes the old widths.

    Args:
        plan: The plan, its file, or the folder of a saved result.
        checkpoint: An index of shards as Hugging Face writes it, a single file, or a folder that holds one of them.
        out: The new folder: absent, empty, or written by graphopt before, which is replaced in one step.
        prefix: What the keys have in front of the names of the captured model, such as ``model.``.
        wrapped: What the names of the captured model have in front of the keys.
        unknown: What happens to keys that the plan does not know: ``refuse``, ``copy`` as they are, or ``drop``.
        watch: Told the name of each file before it is written.

    Raises:
        PlanError: Plan or checkpoint cannot be read, or do not fit each other.
        ExportError: The folder cannot be written or holds other files; what was there is unchanged.
    """
    if unknown not in UNKNOWN:
        raise PlanError(f"found unknown={unknown!r}, wanted one of {', '.join(UNKNOWN)}")
    decided = plan if isinstance(plan, Plan) else read_plan(plan)
    source = open_checkpoint(checkpoint)
    if Path(out).resolve() == source.folder.resolve():
        raise ExportError(f"{out} holds the checkpoint that is read, wanted another folder to write to")
    naming = Naming(prefix, wrapped)
    names = match_names(decided, source.entries, naming, allow_unknown=unknown != "refuse")
    biases = _new_biases(decided, source.entries, names, naming)
    shards = {file: _shard(decided, entries, names, biases, unknown) for file, entries in source.files.items()}
    shards = {file: entries for file, entries in shards.items() if entries}
    files: dict[str, int] = {}
    with atomic_folder(out) as folder:
        for file, entries in shards.items():
            watch(file)
            files[file] = _write_shard(decided, source.folder / file, folder / file, entries, names, biases)
        (folder / MARKER).write_text(decided.to_json() + "\n", encoding="utf-8")
        _write_index(source, shards, folder)
        write_manifest(folder)
    return _account(source, shards, files, Path(out))


def read_plan(path: str | Path) -> Plan:
    """Read a plan from its file or from the folder of a saved result.

    Raises:
        PlanError: There is none, or it is damaged.
    """
    place = Path(path) / MARKER if Path(path).is_dir() else Path(path)
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise PlanError(
            f"{place} cannot be read ({error}); wanted plan.json or the folder of a saved result"
        ) from error
    return Plan.from_json(text)


@dataclass(frozen=True)
class _NewBias:
    """A bias that only the new checkpoint has, beside the weight that tells its type."""

    name: str
    weight: str
    shape: tuple[int, ...]


def _new_biases(
    plan: Plan, entries: Mapping[str, Entry], names: Mapping[str, str], naming: Naming
) -> dict[str, _NewBias]:
    """Return the biases that are to be added, by key."""
    found: dict[str, _NewBias] = {}
    for weight in entries if plan.folded else ():
        for name, values in plan.new_biases({names[weight]: torch.empty(0)}).items() if weight in names else ():
            key = naming.key(name)
            if key is not None:
                found[key] = _NewBias(name, weight, tuple(values.shape))
    return found


def _shard(
    plan: Plan, entries: Mapping[str, Entry], names: Mapping[str, str], biases: Mapping[str, _NewBias], unknown: str
) -> dict[str, Entry]:
    """What the new file holds of an old one, new biases in the file of their weights."""
    out: dict[str, Entry] = {}
    for key, entry in entries.items():
        name = names.get(key)
        if name is None and unknown == "copy":
            out[key] = entry
        elif name is not None and name not in plan.left_out:
            out[key] = Entry(entry.dtype, plan.new_shape(name))
    added = {key: Entry(out[bias.weight].dtype, bias.shape) for key, bias in biases.items() if bias.weight in out}
    return out | added


def _write_shard(
    plan: Plan,
    source: Path,
    target: Path,
    entries: Mapping[str, Entry],
    names: Mapping[str, str],
    biases: Mapping[str, _NewBias],
) -> int:
    try:
        with safetensors.safe_open(source, framework="pt") as file:

            def read(key: str) -> torch.Tensor:
                if key in biases:
                    bias = biases[key]
                    return plan.new_biases({names[bias.weight]: file.get_tensor(bias.weight)})[bias.name]
                tensor: torch.Tensor = file.get_tensor(key)
                return plan.new_value(names[key], tensor) if key in names else tensor

            size = write_stream(target, entries, file.metadata() or {}, read)
    except safetensors.SafetensorError as error:
        raise PlanError(f"{source} cannot be read ({error}); copy it again") from error
    if read_head(target) != dict(entries):
        raise ExportError(f"{target.name} does not read back as it was written; check the disk and try again")
    return size


def _write_index(source: Checkpoint, shards: Mapping[str, Mapping[str, Entry]], folder: Path) -> None:
    if source.index is None:
        return
    places = {key: file for file, entries in shards.items() for key in entries}
    metadata = {**source.metadata, "total_size": _bytes(shards)}
    if "total_parameters" in metadata:
        metadata["total_parameters"] = sum(entry.elements for entries in shards.values() for entry in entries.values())
    content = {"metadata": metadata, "weight_map": dict(sorted(places.items()))}
    (folder / source.index).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _bytes(shards: Mapping[str, Mapping[str, Entry]]) -> int:
    return sum(entry.size_bytes for entries in shards.values() for entry in entries.values())


def _account(
    source: Checkpoint, shards: Mapping[str, Mapping[str, Entry]], files: Mapping[str, int], folder: Path
) -> AppliedPlan:
    before = source.entries
    after = {key: entry for entries in shards.values() for key, entry in entries.items()}
    return AppliedPlan(
        folder=folder,
        files=files,
        bytes_before=_bytes(source.files),
        bytes_after=_bytes(shards),
        changed=tuple(key for key, entry in after.items() if key in before and entry != before[key]),
        added=tuple(key for key in after if key not in before),
        left_out=tuple(key for key in before if key not in after),
    )
