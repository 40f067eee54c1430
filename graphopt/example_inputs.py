"""Example inputs of a capture: bound to the model's signature, moved to its device, widened to a batch of two."""

import copy
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.containers import register_containers
from graphopt.errors import CaptureError


@dataclass(frozen=True)
class ExampleInputs:
    """Arguments of one call of the user's model.

    Attributes:
        args: Positional inputs, nested as the user nests them.
        kwargs: Keyword inputs.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def leaves(self) -> list[Any]:
        """Return every leaf of the nested inputs, in the order of the graph's placeholders."""
        return pytree.tree_leaves((self.args, dict(self.kwargs)))

    def map_tensors(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "ExampleInputs":
        """Return the same structure with a function applied once to every tensor."""
        memo: dict[int, torch.Tensor] = {}

        def once(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in memo:
                memo[id(tensor)] = function(tensor)
            return memo[id(tensor)]

        args, kwargs = pytree.tree_map_only(torch.Tensor, once, (self.args, dict(self.kwargs)))
        return ExampleInputs(args, kwargs)

    def batch_size(self) -> int | None:
        """Return the commonest size of dimension 0 among tensors; the first one's on a tie, None without tensors."""
        counts = Counter(leaf.shape[0] for leaf in self.leaves() if isinstance(leaf, torch.Tensor) and leaf.ndim)
        return counts.most_common(1)[0][0] if counts else None

    def with_batch(self) -> tuple["ExampleInputs", list[int]]:
        """Return the inputs, widened where their batch is one, with the places of the leaves whose first size it is."""
        size = self.batch_size()
        if size is None:
            return self, []
        wide = self.widened(1) if size == 1 else self
        return wide, [place for place, leaf in enumerate(wide.leaves()) if carries(leaf, max(size, 2))]

    def widened(self, batch_size: int) -> "ExampleInputs":
        """Return the inputs with every tensor of that batch size repeated once along dimension 0."""
        return self.map_tensors(lambda tensor: torch.cat([tensor, tensor]) if carries(tensor, batch_size) else tensor)


def carries(leaf: Any, batch_size: int) -> bool:
    """Tell whether a leaf is a tensor with that many rows in dimension 0."""
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] == batch_size


def bind(model: nn.Module, args: Any, kwargs: Any) -> ExampleInputs:
    """Check the inputs against the signature of the model's `forward`.

    Raises:
        CaptureError: `args` is no tuple or list, `kwargs` no mapping, or an argument is missing or unexpected.
    """
    if not isinstance(args, tuple | list):
        raise CaptureError(f"args is a {type(args).__name__}, wanted a tuple of positional inputs; pass (x,) for one")
    if not isinstance(kwargs, Mapping):
        raise CaptureError(f"kwargs is a {type(kwargs).__name__}, wanted a mapping of keyword inputs; pass {{'x': x}}")
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(
            f"{type(model).__name__}.forward takes {signature} and was given {len(args)} positional inputs and "
            f"keywords {sorted(kwargs)}: {error}; pass the example as args and kwargs of that signature"
        ) from error
    register_containers((tuple(args), dict(kwargs)))
    return ExampleInputs(tuple(args), dict(kwargs))


def is_weightless(model: nn.Module) -> bool:
    """Tell whether a model has parameters and all of them are on the meta device."""
    parameters = list(model.parameters())
    return bool(parameters) and all(parameter.is_meta for parameter in parameters)


def without_weights(model: nn.Module, inputs: ExampleInputs) -> tuple[nn.Module, ExampleInputs]:
    """Move the inputs of a model on the meta device there too; buffers that were left behind follow in a copy."""
    if not is_weightless(model):
        return model, inputs
    moved = inputs.map_tensors(lambda tensor: tensor.to("meta"))
    if all(buffer.is_meta for buffer in model.buffers()):
        return model, moved
    return copy.deepcopy(model).to("meta"), moved


def with_plain_signature(model: nn.Module, inputs: ExampleInputs) -> nn.Module:
    """Return a stand-in for a model that takes `**kwargs`, with every keyword input named in its signature.

    `torch.export` cannot mark dimensions of inputs that land in `**kwargs`. The stand-in shares all of the model's
    tensors and submodules, under the same names. A model without `**kwargs` is returned as it is.
    """
    signature = inspect.signature(model.forward)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds or not inputs.kwargs:
        return model
    original = model.forward

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    positional = signature.bind_partial(*inputs.args).arguments
    parameters = [parameter for name, parameter in signature.parameters.items() if name in positional]
    parameters += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in inputs.kwargs]
    forward.__dict__["__signature__"] = inspect.Signature(parameters)
    stand_in = copy.copy(model)
    stand_in.__dict__["forward"] = forward
    return stand_in
