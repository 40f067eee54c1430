"""One try at making a small model of a family that nobody shrunk by hand."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from zoo.catalogue import Inputs


@dataclass(frozen=True)
class Attempt:
    """A model and inputs that may or may not fit each other.

    Attributes:
        model: Makes the model.
        inputs: Makes the inputs, after the model.
        mended: The attempt that follows from what a run of this one complained about, or None.
    """

    model: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    mended: Callable[[str], "Attempt | None"] = lambda reason: None

    def size(self) -> int:
        """Parameters of the model, counted without allocating them; 0 where it cannot be made that way."""
        try:
            with torch.device("meta"):
                model = self.model()
        except (RuntimeError, NotImplementedError):  # reads a number of a tensor, which has none yet
            return 0
        return sum(parameter.numel() for parameter in model.parameters())
