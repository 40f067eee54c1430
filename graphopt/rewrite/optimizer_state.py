"""An optimizer that goes on where another one was before a plan was carried out: its state sliced along."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn, optim
from torch.utils import _pytree as pytree

from graphopt.errors import PlanError
from graphopt.plan import Plan
from graphopt.rewrite.state_shapes import UnknownShapeError, sliced_state

Kind = TypeVar("Kind", bound=optim.Optimizer)

HOOKS = "_optimizer_"
"""How the names begin under which torch keeps an optimizer's hooks."""


@dataclass(frozen=True)
class _Pair:
    """A parameter of the original model, its name there, and what became of it; None where it went away."""

    name: str
    old: Tensor
    new: Tensor | None


def slice_optimizer(plan: Plan, optimizer: Kind, model: nn.Module, module: nn.Module) -> tuple[Kind, tuple[str, ...]]:
    """Make the optimizer with which training goes on after a plan was carried out.

    It is of the same class, with the same groups and hyperparameters, over the parameters of the module. What it keeps
    for a parameter is sliced as the parameter was; numbers stay. Factors of a matrix are sliced along their own
    dimension, and remain means over all of the original. Where it cannot be told which elements of the state belong to
    which of the parameter, that parameter starts anew, as at the first step. Parameters that went away leave their
    group; a group stays even if it is empty then.

    The old optimizer is left as it is and keeps its hooks; a scheduler has to be made anew.

    Args:
        plan: What was done to the model.
        optimizer: Over parameters of the original model.
        model: The original model.
        module: What came of it, as `Result.module` gives it.

    Returns:
        The new optimizer, and a line for each parameter that starts anew.

    Raises:
        PlanError: The optimizer's parameters are not the model's, the model is not the plan's, the module is not what
            the plan gives, or the optimizer keeps one state for all parameters together.
    """
    pairs = _pairs(plan, optimizer, model, module)
    _require_state_of_its_own(optimizer, pairs)
    kept = plan.parameters()
    memo: dict[int, Any] = {id(pair.old): pair.old if pair.new is None else pair.new for pair in pairs}
    restarted: dict[Tensor, str] = {}
    for pair in pairs:
        try:
            memo |= dict(_new_state(plan, pair, optimizer.state.get(pair.old, {}), kept.get(pair.name, {})))
        except UnknownShapeError as error:
            restarted[pair.old] = f"{type(optimizer).__name__} starts anew on {pair.name}: {error}"
    out = _copied(optimizer, memo)
    gone = {id(pair.old) for pair in pairs if pair.new is None}
    for group in out.param_groups:
        # In place: some optimizers keep the list itself under a name of their own.
        group["params"][:] = [parameter for parameter in group["params"] if id(parameter) not in gone]
    for pair in pairs:
        if pair.new is None or pair.old in restarted:
            out.state.pop(pair.old if pair.new is None else pair.new, None)
    return out, tuple(restarted.values())


def _pairs(plan: Plan, optimizer: optim.Optimizer, model: nn.Module, module: nn.Module) -> list[_Pair]:
    names: dict[Tensor, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    now = dict(module.named_parameters(remove_duplicate=False))
    return [_pair(plan, parameter, names.get(parameter, []), now) for parameter in _held(optimizer)]


def _pair(plan: Plan, parameter: Tensor, names: list[str], now: Mapping[str, Tensor]) -> _Pair:
    if not names:
        raise PlanError(
            f"the optimizer holds a parameter of shape {list(parameter.shape)} that is none of the model's; pass the "
            "model whose parameters it was made with"
        )
    known = [name for name in names if plan.source.tensors.get(name) == tuple(parameter.shape)]
    if not known:
        raise PlanError(
            f"{names[0]} of shape {list(parameter.shape)} is no tensor of the {plan.source.class_name} that the plan "
            "was made for; pass the original model"
        )
    found = next((name for name in known if name in now), None)
    if found is None and not plan.left_out.issuperset(known):
        raise PlanError(f"the module has no parameter {known[0]}; pass what came of the same plan, under its own names")
    if found is not None and tuple(now[found].shape) != plan.new_shape(found):
        raise PlanError(
            f"{found} is {list(now[found].shape)} in the module where the plan gives {list(plan.new_shape(found))}; "
            "pass what came of the same plan"
        )
    return _Pair(found or known[0], parameter, None if found is None else now[found])


def _held(optimizer: optim.Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _require_state_of_its_own(optimizer: optim.Optimizer, pairs: list[_Pair]) -> None:
    """Refuse an optimizer such as L-BFGS, which strings all parameters together into one."""
    together = sum(pair.old.numel() for pair in pairs)
    for pair in pairs:
        for key, value in optimizer.state.get(pair.old, {}).items():
            flat = [leaf for leaf in _tensors(value) if leaf.ndim == 1 and leaf.numel() == together]
            if flat and tuple(flat[0].shape) != tuple(pair.old.shape):
                raise PlanError(
                    f"{type(optimizer).__name__} keeps {key} for all parameters together, which cannot be sliced with "
                    "one of them; start a new optimizer on the module"
                )


def _new_state(
    plan: Plan, pair: _Pair, state: Mapping[str, Any], kept: Mapping[int, list[int]]
) -> Iterator[tuple[int, Tensor]]:
    """Yield the identity of each tensor of a parameter's state with what takes its place."""
    if pair.new is None:
        return
    for key, value in state.items():
        for tensor in filter(lambda leaf: leaf.ndim, _tensors(value)):
            own = sliced_state(tensor, key, plan.source.tensors[pair.name], kept)
            place = pair.new.device if tensor.device == pair.old.device else tensor.device
            yield id(tensor), own.detach().to(place, copy=own is tensor)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _copied(optimizer: Kind, memo: dict[int, Any]) -> Kind:
    """Copy an optimizer, with other objects in place of those that the memo names."""
    with torch.no_grad():
        out = copy.deepcopy(optimizer, memo)
        for name, value in vars(optimizer).items():
            # torch's own copies leave out what a class keeps beside defaults, groups and state.
            if name not in vars(out) and not name.startswith(HOOKS) and not callable(value):
                setattr(out, name, copy.deepcopy(value, memo))
    return out
