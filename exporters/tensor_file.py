"""Named tensors in one safetensors file, each storage once, the same bytes for the same tensors."""

import errno
import json
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from graphopt.errors import ExportError, PlanError

_KEY = "graphopt"
_VERSION = 1


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors by name; names tied to one tensor share one entry and an alias in the metadata.

    Args:
        path: The file, which nobody else reads yet.
        tensors: Any shapes, devices and strides; a strided or shared one is written as a contiguous tensor.

    Raises:
        ExportError: A tensor has no values, or is of a kind that safetensors does not know.
        OSError: The file cannot be written.
    """
    owners: dict[object, str] = {}
    stored: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    storages: set[int] = set()
    for name, tensor in sorted(tensors.items()):
        _require_storable(name, tensor)
        owner = owners.setdefault(_identity(name, tensor), name)
        if owner == name:
            stored[name] = _private(tensor, storages)
        else:
            aliases[name] = owner
    # One key only: with several, safetensors writes them in an order that changes from run to run.
    metadata = {_KEY: json.dumps({"version": _VERSION, "aliases": aliases}, sort_keys=True)}
    try:
        # safetensors makes files that only their owner may read; this one gets the rights of any other new file.
        path.touch()
        rights = path.stat().st_mode
        save_file(stored, path, metadata=metadata)
        path.chmod(rights)
    except safetensors.SafetensorError as error:
        raise _system_error(error, path) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read what `write_tensors` wrote.

    Args:
        path: The file.

    Returns:
        Tensors by name, on the CPU; tied names give the same tensor.

    Raises:
        PlanError: The file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        for alias, owner in content["aliases"].items():
            tensors[alias] = tensors[owner]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise PlanError(f"{path} cannot be read ({error}); copy it again or save the result again") from error
    if content.get("version") != _VERSION:
        raise PlanError(f"{path} is of version {content.get('version')}, wanted {_VERSION}")
    return tensors


def _identity(name: str, tensor: torch.Tensor) -> object:
    """Return what tied names have in common; an empty tensor is tied to nothing."""
    if tensor.numel() == 0:
        return name
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _private(tensor: torch.Tensor, storages: set[int]) -> torch.Tensor:
    """Return a contiguous tensor on the CPU whose storage is none of those, and add its storage to them."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    if plain.untyped_storage().data_ptr() in storages:
        plain = plain.clone()
    storages.add(plain.untyped_storage().data_ptr())
    return plain


def _require_storable(name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type == "meta":
        raise ExportError(f"{name!r} has no values (it is on the meta device); load the weights before saving")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ExportError(f"{name!r} is sparse or quantised ({tensor.layout}, {tensor.dtype}); make it dense first")
    if tensor.dtype == torch.complex128:
        raise ExportError(f"{name!r} is complex128, which safetensors does not know; convert it to complex64")


def _system_error(error: Exception, path: Path) -> OSError:
    """Return the error of the operating system that safetensors reports as text."""
    found = re.search(r"os error (\d+)", str(error))
    return OSError(int(found[1]) if found else errno.EIO, str(error), str(path))
