"""stages.json: which ONNX file each device runs, what goes in and out, and what goes from which device to which."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from graphopt.exporters.manifest import sha256_of
from graphopt.exporters.onnx_model import OnnxModel
from graphopt.program import Program
from graphopt.stages import Partition, Segment, stage_key

STAGES = "stages.json"
"""Name of the file in the folder."""

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StageModel:
    """A segment as an ONNX model.

    Attributes:
        key: Phase and id of the segment, such as ``sync/0.0``.
        file: Name of its file.
        segment: The segment.
        program: What it was made of.
        built: The model in memory.
    """

    key: str
    file: str
    segment: Segment
    program: Program
    built: OnnxModel


def write_stages(
    partition: Partition,
    models: Mapping[str, StageModel],
    data: Mapping[str, tuple[str, ...]],
    opset: int,
    origin: Mapping[str, str],
    folder: Path,
) -> None:
    """Write ``stages.json``, with sizes and SHA-256 sums of the files that are there.

    Args:
        partition: Which segments there are.
        models: The model of each segment by phase and id; the same one where segments are the same.
        data: Files of weights that a file needs beside it, by its name.
        opset: Operator set of the files.
        origin: What they came from.
        folder: A folder that nobody else reads yet.

    Raises:
        OSError: A file cannot be read or written.
    """
    names = dict.fromkeys(name for model in models.values() for name in (model.file, *data[model.file]))
    content = {
        "version": _VERSION,
        "origin": dict(origin),
        "opset": opset,
        "mode": partition.mode,
        "devices": partition.devices,
        "sampler": partition.sampler,
        "warm_up": partition.warm_up,
        "phases": {
            phase: {
                "segments": [
                    _segment(models[stage_key(phase, segment.id)], segment, data) for segment in found.segments
                ],
                "edges": [asdict(edge) for edge in found.edges],
                "outputs": list(found.outputs),
            }
            for phase, found in partition.phases.items()
        },
        "delays": [asdict(delay) for delay in partition.delays],
        "files": {
            name: {"sha256": sha256_of(folder / name), "size_bytes": (folder / name).stat().st_size} for name in names
        },
    }
    (folder / STAGES).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def listed_names(folder: Path) -> frozenset[str]:
    """Names of the files that a folder's ``stages.json`` lists; none where it is absent or damaged."""
    try:
        content = json.loads((folder / STAGES).read_text(encoding="utf-8"))
        return frozenset(name for name in content["files"] if Path(name).name == name)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return frozenset()


def _segment(model: StageModel, segment: Segment, data: Mapping[str, tuple[str, ...]]) -> dict[str, object]:
    return {
        "id": segment.id,
        "device": segment.device,
        "file": model.file,
        "weights": list(data[model.file]),
        "inputs": [port.name for port in model.built.inputs],
        "outputs": [port.name for port in model.built.outputs],
    }
