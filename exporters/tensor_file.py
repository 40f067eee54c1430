"""Named tensors in one safetensors file, each storage once, the same bytes for the same tensors."""

import errno
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from graphopt.errors import ExportError, PlanError
from graphopt.wire import stride_order

WEIGHTS = "model.safetensors"
"""Name of the file of weights in a saved result."""

_KEY = "graphopt"
_VERSION = 1


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors by name; names tied to one tensor share one entry and an alias in the metadata.

    Args:
        path: The file, which nobody else reads yet.
        tensors: Any shapes, devices and strides; a strided or shared one is written as a contiguous tensor, and in
            which order its dimensions lay in memory is told in the metadata.

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
        owner = owners.setdefault(identity(name, tensor), name)
        if owner == name:
            stored[name] = _private(tensor, storages)
        else:
            aliases[name] = owner
    # One key only: with several, safetensors writes them in an order that changes from run to run.
    content = {"version": _VERSION, "aliases": aliases, **_orders({name: tensors[name] for name in stored})}
    metadata = {_KEY: json.dumps(content, sort_keys=True)}
    try:
        # safetensors makes files that only their owner may read; this one gets the rights of any other new file.
        path.touch()
        rights = path.stat().st_mode
        save_file(stored, path, metadata=metadata)
        path.chmod(rights)
    except safetensors.SafetensorError as error:
        raise _system_error(error, path) from error


def identity(name: str, tensor: torch.Tensor) -> object:
    """Return what tied names have in common; an empty tensor is tied to nothing.

    Args:
        name: A name of the tensor.
        tensor: Any shape, device and strides.
    """
    if tensor.numel() == 0:
        return name
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def read_tensors(path: Path, names: Collection[str] | None = None) -> dict[str, torch.Tensor]:
    """Read what `write_tensors` wrote.

    Args:
        path: The file.
        names: The tensors to read, all by default; nothing else of the file is read then.

    Returns:
        Tensors by name, on the CPU, without gaps in memory and with their dimensions in the order that they had there;
        tied names give the same tensor.

    Raises:
        PlanError: The file is missing or damaged, or has no tensor of such a name.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[_KEY])
            aliases = dict(content["aliases"])
            wanted = [*file.keys(), *aliases] if names is None else names
            owners = {aliases.get(name, name) for name in wanted}
            stored = {owner: file.get_tensor(owner) for owner in sorted(owners)}
        for name, order in content.get("orders", {}).items():
            if name in stored:
                stored[name] = _laid_out(stored[name], order)
        tensors = {name: stored[aliases.get(name, name)] for name in wanted}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise PlanError(f"{path} cannot be read ({error}); copy it again or save the result again") from error
    if content.get("version") != _VERSION:
        raise PlanError(f"{path} is of version {content.get('version')}, wanted {_VERSION}")
    return tensors


def _orders(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the order in memory of the dimensions of the tensors that it is another of: results hang on it."""
    permuted = {
        name: stride_order(tensor.stride())
        for name, tensor in tensors.items()
        if not tensor.is_contiguous() and 0 not in tensor.stride()
    }
    found = {name: order for name, order in permuted.items() if list(order) != sorted(order)}
    return {"orders": found} if found else {}


def _laid_out(tensor: torch.Tensor, order: list[int]) -> torch.Tensor:
    """Return a tensor whose dimensions lie in memory in the order given, outermost first."""
    if sorted(order) != list(range(tensor.ndim)):
        raise ValueError(f"the order {order} of {tensor.ndim} dimensions")
    return tensor.permute(order).contiguous().permute(sorted(range(tensor.ndim), key=order.__getitem__))


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
