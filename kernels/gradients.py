"""Gradients of a fused operator: those of its reference, recomputed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def differentiate_by(operator: Any, reference: Callable[..., Any]) -> None:
    """Register a fused operator's gradients as those of its reference.

    Going back computes the reference once more: nothing but the operator's inputs is kept. Gradients can be
    differentiated again.

    Args:
        operator: what `torch.library.triton_op` returned.
        reference: the same function of the same arguments, differentiable by autograd.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        leaves, ctx.spec = pytree.tree_flatten(inputs)
        ctx.others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        ctx.places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        ctx.save_for_backward(*(leaves[place] for place in ctx.places))

    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        again = torch.is_grad_enabled()
        leaves = list(ctx.others)
        with torch.enable_grad():
            # A view of each, so that a tensor given twice gets two gradients that autograd then adds.
            for place, saved in zip(ctx.places, ctx.saved_tensors, strict=True):
                leaves[place] = _alias(saved, attached=again)
            outputs = pytree.tree_leaves(reference(*pytree.tree_unflatten(leaves, ctx.spec)))
            found = _gradients([leaves[place] for place in ctx.places], outputs, gradients, again=again)
        results: list[Tensor | None] = [None] * len(leaves)
        for place, gradient in zip(ctx.places, found, strict=True):
            results[place] = gradient
        return tuple(pytree.tree_unflatten(results, ctx.spec))

    operator.register_autograd(backward, setup_context=setup_context)


def _alias(saved: Tensor, *, attached: bool) -> Tensor:
    """A tensor of its own over the same values, with the history of the saved one where that is wanted."""
    if not saved.requires_grad:
        return saved
    return saved.view_as(saved) if attached else saved.detach().requires_grad_()


def _gradients(
    inputs: list[Tensor], outputs: list[Any], gradients: tuple[Tensor | None, ...], *, again: bool
) -> list[Tensor | None]:
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    pairs = [
        (output, gradient)
        for output, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and output.requires_grad
    ]
    if not wanted or not pairs:
        return [None] * len(inputs)
    values, seeds = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(values, wanted, seeds, create_graph=again, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]
