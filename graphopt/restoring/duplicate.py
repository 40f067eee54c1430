"""A copy of a model's objects over the model's own tensors."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphopt.capture_failure import Attempt, summary
from graphopt.errors import ModuleRestoreError


def duplicate(model: nn.Module) -> nn.Module:
    """Copy a model: modules, hooks, flags and whatever they hold are new, tensors are shared.

    Raises:
        ModuleRestoreError: something that the model holds cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for leaf in pytree.tree_leaves([module._parameters, module._buffers, dict(module.__dict__)]):
            if isinstance(leaf, Tensor):
                memo[id(leaf)] = leaf
    with Attempt() as attempt:
        return _in_the_mode_of(model, copy.deepcopy(model, memo))
    raise ModuleRestoreError(
        f"the model cannot be copied: {summary(attempt.failed())}; take that out of it, or use result.module(), the "
        "graph form"
    ) from attempt.failure


def _in_the_mode_of(model: nn.Module, copied: nn.Module) -> nn.Module:
    """Train or evaluate each module as its original does: a module that copies itself may start anew in training."""
    for original, module in zip(model.modules(), copied.modules(), strict=False):
        if module.training != original.training:
            module.train(original.training)
    return copied
