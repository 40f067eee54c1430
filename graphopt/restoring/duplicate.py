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

    What the modules hold beside that and nothing can copy, such as locks and modules of Python, is shared too.

    Raises:
        ModuleRestoreError: something that the model holds cannot be copied.
    """
    held = [module.__dict__ for module in model.modules()]
    tensors = {id(leaf): leaf for leaf in pytree.tree_leaves(list(map(dict, held))) if isinstance(leaf, Tensor)}
    with Attempt():
        return _in_the_mode_of(model, copy.deepcopy(model, {**tensors}))
    shared = {id(leaf): leaf for leaf in pytree.tree_leaves(list(map(dict, held))) if not _can_be_copied(leaf, tensors)}
    with Attempt() as attempt:
        return _in_the_mode_of(model, copy.deepcopy(model, {**tensors, **shared}))
    raise ModuleRestoreError(
        f"the model cannot be copied: {summary(attempt.failed())}; take that out of it, or use result.module(), the "
        "graph form"
    ) from attempt.failure


def _can_be_copied(leaf: Any, tensors: dict[int, Any]) -> bool:
    if isinstance(leaf, nn.Module):
        return True
    with Attempt() as attempt:
        copy.deepcopy(leaf, {**tensors})
    return attempt.failure is None


def _in_the_mode_of(model: nn.Module, copied: nn.Module) -> nn.Module:
    """Train or evaluate each module as its original does: a module that copies itself may start anew in training."""
    copies = dict(copied.named_modules())
    for name, original in model.named_modules():
        if name in copies:
            copies[name].training = original.training
    return copied
