"""What a session remembers between the steps of one guidance branch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

InputKey = tuple[tuple[tuple[int, ...], torch.dtype, torch.device], ...]


@dataclass
class BranchState:
    """Memory of one guidance branch.

    Attributes:
        key: shape, dtype and device of every input tensor; a step with others starts anew.
        tensors: what the slots hold, by name of the tensor.
        step: number of the last step run.
        filled: number of the step at which the slots were filled last.
        updates: how often they were filled.
        consecutive: cached steps since then.
        cached: cached steps of this generation.
    """

    key: InputKey
    tensors: dict[str, Tensor] = field(default_factory=dict)
    step: int = -1
    filled: int = -1
    updates: int = 0
    consecutive: int = 0
    cached: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of what is held; memory that two tensors share counts once."""
        return held_bytes(self.tensors.values())

    def keep(self, tensors: Mapping[str, Tensor], step: int, *, copy: bool) -> None:
        """Hold what a full step filled the slots with."""
        self.store(tensors, copy=copy)
        self.filled, self.updates, self.consecutive = step, self.updates + 1, 0

    def store(self, tensors: Mapping[str, Tensor], *, copy: bool) -> None:
        """Hold tensors, in memory of their own where that of the program is used again."""
        for name, tensor in tensors.items():
            self.tensors[name] = tensor.detach().clone() if copy else tensor.detach()

    def hit(self) -> None:
        """Count a cached step."""
        self.consecutive += 1
        self.cached += 1


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory that tensors lie in; what two of them share counts once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def input_key(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> InputKey:
    """Shape, dtype and device of every tensor among the inputs of a step."""
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    return tuple((tuple(leaf.shape), leaf.dtype, leaf.device) for leaf in leaves if isinstance(leaf, Tensor))
