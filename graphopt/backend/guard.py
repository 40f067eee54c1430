"""The tensors that a rewritten graph was made from, watched for changes."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class TensorGuard:
    """Tells at every call whether parameters and buffers are the very ones that were looked at, unwritten since.

    A tensor is the same if it is the same object, over the same memory, and as often written to. What is written
    through `tensor.data` is counted nowhere and cannot be seen. The tensors are not kept alive.

    Args:
        tensors: What was looked at, by its place among the arguments of a call.
    """

    def __init__(self, tensors: Mapping[int, Tensor]) -> None:
        self._watched = [
            (place, weakref.ref(tensor), tensor.data_ptr(), tensor._version) for place, tensor in tensors.items()
        ]

    def holds(self, args: Sequence[Any]) -> bool:
        """Tell whether nothing has changed.

        Args:
            args: The arguments of a call.
        """
        # A mode such as torch.device("cuda") would be asked about every look at a tensor.
        with torch._C.DisableTorchFunction():
            for place, reference, pointer, version in self._watched:
                tensor: Tensor = args[place]
                if tensor is not reference() or tensor.data_ptr() != pointer or tensor._version != version:
                    return False
        return True
