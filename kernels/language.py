"""Triton, or None where it is not installed: it is made for Linux, and everything else works without it.

A module that decorates kernels needs ``from __future__ import annotations``: ``tl.constexpr`` is not there to be
looked up where Triton is missing. Its own functions may use ``triton`` and ``tl`` once `graphopt.kernels.launch` says
that a kernel runs.
"""

from collections.abc import Callable
from typing import TypeVar

try:
    import triton
    from triton import language as tl
except ImportError:
    triton = None
    tl = None

__all__ = ["jit", "tl", "triton"]

_Function = TypeVar("_Function", bound=Callable[..., object])


def jit(function: _Function) -> _Function:
    """Make a function a Triton kernel; leave it alone where Triton is not installed."""
    if triton is None:
        return function
    compiled: _Function = triton.jit(function)
    return compiled
