"""A safetensors file written tensor by tensor, so that no more than one of them is in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
"""Bytes of an element by the format's word for its type; types of less than a byte are not among them."""


@dataclass(frozen=True)
class Entry:
    """What the head of the file says of one tensor.

    Attributes:
        dtype: The format's word for the type, such as ``BF16``; a key of `ITEM_BYTES`.
        shape: Its sizes.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements."""
        return self.elements * ITEM_BYTES[self.dtype]

    @property
    def elements(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)


def write_stream(
    path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str], read: Callable[[str], torch.Tensor]
) -> int:
    """Write a file whose tensors are asked for one after another.

    Wide types come first, so that every tensor begins at a multiple of its element's size.

    Args:
        path: The file, which nobody else reads yet.
        entries: Type and shape by name.
        metadata: Texts that the file carries along.
        read: Gives the tensor of a name, of that type and shape, on any device.

    Returns:
        Bytes of the file.

    Raises:
        OSError: The file cannot be written.
    """
    names = sorted(entries, key=lambda name: (-ITEM_BYTES[entries[name].dtype], name))
    head = _head(names, entries, metadata)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little"))
        file.write(head)
        for name in names:
            file.write(_content(read(name)))
        return file.tell()


def _head(names: list[str], entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    content: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + entries[name].size_bytes
        shape = list(entries[name].shape)
        content[name] = {"dtype": entries[name].dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


def _content(tensor: torch.Tensor) -> memoryview:
    """Return a tensor's own memory as bytes; the bits stay as they are, whatever they mean."""
    plain = tensor.detach().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else memoryview(b"")
