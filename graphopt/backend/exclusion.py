"""Tracing while other threads compile and call compiled models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def compiling() -> Iterator[None]:
    """Trace as torch.compile does: no other thread compiles meanwhile, and calls of compiled models are let through.

    A trace changes `torch.nn.Module` and says so for the whole process. A graph that is traced when it is called, for
    the parameters of another model, would be in the way of torch.compile in another thread.
    """
    from torch._dynamo import convert_frame  # which imports Triton

    with convert_frame.compile_lock:
        before = torch.compiler._is_compiling_flag
        torch.compiler._is_compiling_flag = True
        try:
            yield
        finally:
            torch.compiler._is_compiling_flag = before
