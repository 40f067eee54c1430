"""Whether a result was made for a model."""

from __future__ import annotations

from torch import nn

from graphopt.errors import GraphoptError
from graphopt.pass_manager import Result
from graphopt.plan import PlanSource

LIFTED = "lifted_"
"""How names begin that torch.export gives to constants of a model's code; no module has them."""


def require_origin(result: Result, model: nn.Module) -> None:
    """Refuse a result that was made for another model, told from class, names and shapes.

    Args:
        result: what a pipeline returned.
        model: in whose place the result shall run. Its weights may be others.

    Raises:
        GraphoptError: the result was made for another model.
    """
    source = PlanSource.of(result.program) if result.plan is None else result.plan.source
    difference = _difference(source, model)
    if difference:
        raise GraphoptError(
            f"the result was made for another model than this {type(model).__name__}: {difference}; run the passes on "
            "this one, or enable the cache with their text"
        )


def _difference(source: PlanSource, model: nn.Module) -> str:
    """The first fact in which a model differs from the one that was captured; "" where there is none."""
    if source.class_name != type(model).__name__:
        return f"that one is a {source.class_name}"
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    for name, tensor in named:
        if name not in source.tensors:
            return f"that one has no {name}"
        if source.tensors[name] != tuple(tensor.shape):
            return f"{name} is {list(source.tensors[name])} there and {list(tensor.shape)} here"
    lost = next((name for name in source.tensors if _lacks(model, name)), None)
    return "" if lost is None else f"this one has no {lost}"


def _lacks(model: nn.Module, name: str) -> bool:
    """Whether a model surely has no such tensor; one that its code makes as it runs may be a constant of a program."""
    owner, _, leaf = name.rpartition(".")
    if leaf.startswith(LIFTED):
        return False
    try:
        module = model.get_submodule(owner)
    except AttributeError:
        return True
    return getattr(module, leaf, model) is None
