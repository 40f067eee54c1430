"""Triton, or None where it is not installed: it is made for Linux, and everything else works without it.

A module that decorates kernels needs ``from __future__ import annotations``: ``tl.constexpr`` is not there to be
looked up where Triton is missing. Triton does look up the annotations of a kernel's arguments, and knows ``tl`` alone:
write ``tl.tensor``, not ``Any``, which only fails on a GPU. Functions that are no kernels may use ``triton`` and ``tl``
once `graphopt.kernels.launch` says that a kernel runs.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

try:
    import triton
    from triton import language as tl
except ImportError:
    triton = None
    tl = None
    # PyTorch would warn once for each operator; `graphopt.kernels.status()` says it to whom it concerns.
    logging.getLogger("torch._library.triton").addFilter(lambda record: "Triton not available" not in str(record.msg))

__all__ = ["jit", "tl", "triton"]

_Function = TypeVar("_Function", bound=Callable[..., object])


def jit(function: _Function) -> _Function:
    """Make a function a Triton kernel; leave it alone where Triton is not installed."""
    if triton is None:
        return function
    compiled: _Function = triton.jit(function)
    return compiled
