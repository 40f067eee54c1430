"""The tensors that a rewritten graph was made from, watched for changes."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook


class TensorGuard:
    """Tells at every call whether parameters and buffers are the very ones that were looked at, unwritten since.

    A tensor is the same if it is the same object, over the same memory, and as often written to. A step of an
    optimizer that has it counts as a write, since fused kernels do not count theirs. What is written through
    `tensor.data`, NumPy or the storage is counted nowhere and cannot be seen. The tensors are not kept alive.

    Args:
        tensors: What was looked at, by its place among the arguments of a call.
    """

    def __init__(self, tensors: Mapping[int, Tensor]) -> None:
        self._watched = [
            (place, weakref.ref(tensor), tensor.data_ptr(), tensor._version) for place, tensor in tensors.items()
        ]
        self._stepped = False
        _watch_optimizers()
        GUARDS.add(self)

    def step(self, tensors: Collection[int]) -> None:
        """Take note that an optimizer has written to some tensors, given by `id`."""
        self._stepped = self._stepped or any(id(reference()) in tensors for _, reference, *_ in self._watched)

    def holds(self, args: Sequence[Any]) -> bool:
        """Tell whether nothing has changed.

        Args:
            args: The arguments of a call.
        """
        if self._stepped:
            return False
        # A mode such as torch.device("cuda") would be asked about every look at a tensor.
        with torch._C.DisableTorchFunction():
            for place, reference, pointer, version in self._watched:
                tensor: Tensor = args[place]
                if tensor is not reference() or tensor.data_ptr() != pointer or tensor._version != version:
                    return False
        return True


GUARDS: weakref.WeakSet[TensorGuard] = weakref.WeakSet()
"""Every guard that may be asked."""


@cache
def _watch_optimizers() -> None:
    """Have every step of every optimizer noted from now on."""
    register_optimizer_step_post_hook(_after_step)


def _after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    tensors = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
    for guard in list(GUARDS):
        guard.step(tensors)
