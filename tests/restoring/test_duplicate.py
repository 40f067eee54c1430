"""A copy of a model: over the same tensors, in the same mode, beside what cannot be copied."""

import math
import threading
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from graphopt.errors import ModuleRestoreError
from graphopt.restoring.duplicate import duplicate


class Held(nn.Module):
    """Holds more than tensors: a lock, a module of Python, a list with another lock."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.lock = threading.Lock()
        self.library: ModuleType = math
        self.several: list[Any] = [threading.Lock(), 1]
        self.plain = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.lock, self.several[0]:
            return self.linear(x) * self.library.pi


class Restarting(nn.Module):
    """Copies itself by being made anew, in training."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Restarting":
        return Restarting()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(x)


class Sealed:
    """Cannot be copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Sealed":
        raise TypeError("one is enough")


def test_what_cannot_be_copied_is_shared() -> None:
    model = Held()
    copied = duplicate(model)
    assert copied.lock is model.lock
    assert copied.several[0] is model.several[0]
    assert copied.several is not model.several
    assert copied.plain is not model.plain
    assert copied.linear is not model.linear
    assert copied.linear.weight is model.linear.weight
    x = torch.randn(2, 4)
    assert torch.equal(copied(x), model(x))


def test_a_copy_is_in_the_mode_of_its_original() -> None:
    model = nn.Sequential(Restarting(), nn.Dropout(0.5).train(), Restarting()).eval()
    model[2].drop.train()
    copied = duplicate(model)
    assert [module.training for module in copied.modules()] == [module.training for module in model.modules()]
    assert [module.training for module in copied.modules()] == [False, False, False, False, False, True]


def test_a_module_that_cannot_be_copied_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].__class__ = type("Once", (nn.Linear,), {"__deepcopy__": Sealed.__deepcopy__})
    with pytest.raises(ModuleRestoreError, match="cannot be copied: TypeError: one is enough"):
        duplicate(model)
