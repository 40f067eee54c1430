"""One referee for every tool: it reads from the pruned model which elements are left, and masks the original.

A model whose parameters hold, instead of weights, the number of each element is pruned by indices that do not depend on
weights. What is left in each parameter then tells exactly which elements the tool kept. The same elements go into the
pruned model as weights, all others are zeroed in the original, and the two must agree.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from pruning_comparison.statistics import Statistics, touched

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class TensorOutputs(nn.Module):
    """A model whose output is the tuple of its floating-point output tensors, which every tool understands."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        leaves = pytree.tree_leaves(self.model(*args, **kwargs))
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())


@dataclass(frozen=True)
class Verdict:
    """What the referee found.

    Attributes:
        error: Largest over the outputs of ||masked - pruned|| over the smaller of ||masked - original||, ||masked||.
        effect: Largest over the outputs of ||masked - original|| / ||original||.
        kept: Share of the parameters outside embedding tables that is left.
        reason: Why there is no error to speak of; empty where there is one.
    """

    error: float | None
    effect: float | None
    kept: float
    reason: str = ""


def number_elements(model: nn.Module) -> dict[str, Tensor]:
    """Write the number of each element over the weights of a model, in place, and return the weights by name."""
    weights = {name: tensor.detach().clone() for name, tensor in _parameters(model).items()}
    with torch.no_grad():
        for parameter in _parameters(model).values():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape))
    return weights


def judge(original: nn.Module, pruned: nn.Module, inputs: Inputs) -> Verdict:
    """Compare a pruned model, whose parameters hold numbers of elements, with the masked original.

    Args:
        original: The model before pruning, with its weights.
        pruned: The pruned model; its parameters get the original's weights here.
        inputs: Positional and named arguments of one call.
    """
    weights = _parameters(original)
    left = {name: tensor.detach().round().long() for name, tensor in _parameters(pruned).items()}
    share = _share(original, left)
    _restore(pruned, weights, left)
    masked = {name: _masked(tensor, left.get(name)) for name, tensor in weights.items()}
    before, calls_before = _run(original, weights, inputs)
    after, calls_after = _run(pruned, {}, inputs)
    shapes = [[list(out.shape) for out in outputs] for outputs in (before, after)]
    if shapes[0] != shapes[1]:
        return Verdict(None, None, share, f"output shapes {shapes[0]} became {shapes[1]}")
    if share >= 1:
        return Verdict(None, None, share, "nothing was pruned")
    separable = touched(calls_before, calls_after)
    scales: dict[int, float] = {}
    whole, _ = _run(original, weights, inputs, separable, scales)
    wanted, _ = _run(original, masked, inputs, separable, scales)
    found, _ = _run(pruned, {}, inputs, separable, scales)
    return Verdict(*_distance(whole, wanted, found), share)


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    found = model.named_parameters(remove_duplicate=False)
    return {name: parameter for name, parameter in found if parameter.is_floating_point()}


def _share(original: nn.Module, left: Mapping[str, Tensor]) -> float:
    """Share of parameters left; embedding tables, and what is tied to them, do not count."""
    tables = {id(module.weight) for module in original.modules() if isinstance(module, nn.Embedding)}
    counted = {name: tensor for name, tensor in original.named_parameters() if id(tensor) not in tables}
    now = sum(left[name].numel() if name in left else tensor.numel() for name, tensor in counted.items())
    return now / sum(tensor.numel() for tensor in counted.values())


def _restore(pruned: nn.Module, weights: Mapping[str, Tensor], left: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in _parameters(pruned).items():
            parameter.copy_(weights[name].detach().flatten()[left[name]])


def _masked(tensor: Tensor, left: Tensor | None) -> Tensor:
    if left is None:
        return tensor.detach()
    out = torch.zeros_like(tensor).flatten()
    out[left.flatten()] = tensor.detach().flatten()[left.flatten()]
    return out.reshape(tensor.shape)


def _run(
    model: nn.Module,
    values: Mapping[str, Tensor],
    inputs: Inputs,
    separable: Mapping[int, int] | None = None,
    scales: dict[int, float] | None = None,
) -> tuple[list[Tensor], list[tuple[str, int]]]:
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, inputs)
    with torch.no_grad(), Statistics(separable, scales) as statistics:
        outputs = functional_call(model, dict(values), args, kwargs, tie_weights=False)
    return list(outputs), statistics.calls


def _distance(whole: list[Tensor], wanted: list[Tensor], found: list[Tensor]) -> tuple[float, float]:
    errors, effects = [0.0], [0.0]
    for before, masked, pruned in zip(whole, wanted, found, strict=True):
        difference, change = _norm(masked - pruned), _norm(masked - before)
        effects.append(change / (_norm(before) or 1.0))
        scale = min(change, _norm(masked) or change)
        errors.append(difference / scale if scale else (float("inf") if difference else 0.0))
    return _largest(errors), _largest(effects)


def _largest(numbers: list[float]) -> float:
    return math.nan if any(math.isnan(number) for number in numbers) else max(numbers)


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))
