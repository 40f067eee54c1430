"""Attention with scores of the user's own, written in ordinary operators: the rules know these."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.flex_attention import flex_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

INDICES = ((0, None, None, None), (None, 0, None, None), (None, None, 0, None), (None, None, None, 0))
"""Which of batch, head, query and key a score's function is mapped over, from the outside in."""


def write_out_for(kind: type[TorchDispatchMode]) -> None:
    """Let recorders of a class write the operators down that attention with a user's scores is made of.

    Args:
        kind: A class of modes; torch looks for the class itself, not for those that it derives from.
    """

    def in_operators(mode: TorchDispatchMode, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        with mode:
            return _attention(*args, **kwargs)

    flex_attention.py_impl(kind)(in_operators)


class _Places(TorchFunctionMode):
    """Reads a table at places that are tensors by an operator, where Python would ask for their numbers."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        places = args[1] if func is Tensor.__getitem__ else None
        places = places if isinstance(places, tuple) else (places,)
        if all(isinstance(place, Tensor | int) for place in places):
            return torch.ops.aten.index.Tensor(args[0], [torch.as_tensor(place) for place in places])
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Tensor],
    block_mask: tuple[Any, ...],
    scale: float,
    kernel_options: Any,
    score_buffers: tuple[Any, ...] = (),
    mask_buffers: tuple[Any, ...] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of ``query: (B, heads, Q, E)`` to ``key: (B, groups, K, E)``; also logarithms of sums, and maxima.

    The logarithms are of base 2, as the operator's are.
    """
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (one.repeat_interleave(repeats, dim=1) for one in (key, value))
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    scores = query.to(wide) @ key.to(wide).transpose(-2, -1) * scale
    places = [torch.arange(size, device=query.device) for size in scores.shape]
    with _Places():
        scores = _mapped(score_mod, (0,), score_buffers)(scores, *places, *score_buffers)
        visible = _mapped(block_mask[-1], (), mask_buffers)(*places, *mask_buffers)
    scores = torch.where(visible, scores, -torch.inf)
    sums, most = scores.logsumexp(-1), scores.amax(-1)
    weights = torch.where(most[..., None] == -torch.inf, 0.0, scores.softmax(-1)).to(query.dtype)
    base = math.log(2)
    return weights @ value, sums / base, most / base


def _mapped(function: Callable[..., Tensor], first: tuple[int, ...], buffers: tuple[Any, ...]) -> Callable[..., Tensor]:
    """Map a function of one score's indices over all of them."""
    for dims in reversed(INDICES):
        function = torch.vmap(function, in_dims=(*first, *dims, *[None] * len(buffers)))
    return function
