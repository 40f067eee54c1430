"""Trained weights kept between runs, as safetensors files whose names say what they were trained with."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import graphopt
from graphopt.exporters.atomic import atomic_file

_KEY = "trained"


@dataclass(frozen=True)
class Trained:
    """What a training has left.

    Attributes:
        tensors: The weights by name.
        figures: What was measured on the way, such as losses and seconds.
    """

    tensors: Mapping[str, Tensor]
    figures: Mapping[str, float]


def trained(folder: Path, name: str, config: Mapping[str, Any], train: Callable[[], Trained]) -> Trained:
    """Return trained weights from the cache, or train and keep them.

    The file is called after a hash of the configuration and the versions of graphopt and torch, which it also holds in
    full. A file that cannot be read, or holds another configuration, counts as absent and is replaced.

    Args:
        folder: Where the files are; made where it is absent.
        name: Start of the file's name.
        config: All that the weights depend on, as values that JSON knows.
        train: Makes the weights.
    """
    identity = _identity(config)
    path = folder / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
    found = _read(path, identity)
    if found is not None:
        return found
    made = train()
    folder.mkdir(parents=True, exist_ok=True)
    # One key only: with several, safetensors writes them in an order that changes from run to run.
    metadata = {_KEY: json.dumps({"identity": identity, "figures": dict(made.figures)}, sort_keys=True)}
    contiguous = {key: tensor.detach().contiguous() for key, tensor in made.tensors.items()}
    atomic_file(path, safetensors.torch.save(contiguous, metadata))
    return made


def _identity(config: Mapping[str, Any]) -> str:
    whole = {"config": config, "graphopt": graphopt.__version__, "torch": torch.__version__}
    return json.dumps(whole, sort_keys=True)


def _read(path: Path, identity: str) -> Trained | None:
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[_KEY])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
        found = Trained(tensors, content["figures"])
    except (safetensors.SafetensorError, OSError, ValueError, LookupError, TypeError):
        return None
    return found if content.get("identity") == identity else None
