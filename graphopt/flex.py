"""Attention with scores of the user's own, as the operators that compute it: the rules know these."""

from collections.abc import Callable
from typing import Any

from torch._ops import HigherOrderOperator


def written_out(func: Any) -> Callable[..., Any]:
    """Return what computes the same as a function of torch in ordinary operators; most functions as they are."""
    plain: Callable[..., Any] = func
    if not isinstance(func, HigherOrderOperator) or func.name() != "flex_attention":
        return plain
    from torch._higher_order_ops.flex_attention import math_attention  # loads a compiler

    return math_attention
