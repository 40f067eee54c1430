"""Gradients of a kernel's operator, taken through its reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def differentiate_by_reference(operator: Any, reference: Callable[..., Any]) -> None:
    """Give an operator the gradient of its reference, which the backward pass computes anew.

    Nothing but the inputs is kept for the backward pass, as the operators run where their intermediate values are
    what one wants to be rid of.

    Args:
        operator: what `torch.library.triton_op` made.
        reference: takes the same arguments and returns the same in differentiable plain torch.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        leaves, ctx.spec = pytree.tree_flatten(list(inputs))
        ctx.save_for_backward(*(leaf for leaf in leaves if isinstance(leaf, Tensor)))
        ctx.leaves = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]

    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        saved = iter(ctx.saved_tensors)
        leaves = [next(saved) if held is None else held[0] for held in ctx.leaves]
        fresh = [_detached(leaf) for leaf in leaves]
        with torch.enable_grad():
            outputs = pytree.tree_leaves(reference(*pytree.tree_unflatten(fresh, ctx.spec)))
        found = _gradients(outputs, [leaf for leaf in fresh if _wants_gradient(leaf)], gradients)
        by_leaf = [next(found) if _wants_gradient(leaf) else None for leaf in fresh]
        return tuple(pytree.tree_unflatten(by_leaf, ctx.spec))

    operator.register_autograd(backward, setup_context=setup_context)


def _detached(leaf: Any) -> Any:
    return leaf.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf


def _wants_gradient(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


def _gradients(outputs: list[Tensor], inputs: list[Tensor], gradients: tuple[Tensor | None, ...]) -> Any:
    """An iterator over the gradients of the inputs, None for those that no given gradient reaches."""
    pairs = [(out, given) for out, given in zip(outputs, gradients, strict=True) if given is not None]
    pairs = [(out, given) for out, given in pairs if out.requires_grad]
    if not pairs:
        return iter([None] * len(inputs))
    kept, given = zip(*pairs, strict=True)
    return iter(torch.autograd.grad(kept, inputs, given, allow_unused=True))
