"""Whether Triton's kernels run, on which device, and with which configurations."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from graphopt.kernels.language import triton

DISABLE = "GRAPHOPT_DISABLE_TRITON"
"""Environment variable: 1 makes every operator compute by its reference."""

FORCE = "GRAPHOPT_FORCE_TRITON"
"""Environment variable: 1 runs kernels on the CPU through Triton's interpreter, which TRITON_INTERPRET=1 turns on."""

_Function = TypeVar("_Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Choice:
    """One way to launch a kernel.

    Attributes:
        constants: values of the kernel's compile-time arguments, by name.
        num_warps: warps that run one program.
        num_stages: depth of software pipelining.
    """

    constants: tuple[tuple[str, int], ...]
    num_warps: int = 4
    num_stages: int = 2


def unavailable() -> str | None:
    """Why no kernel runs in this process, in one clause; None where kernels run."""
    if triton is None:
        return "Triton is not installed; pip install 'graphopt[gpu]' brings it on Linux"
    if os.environ.get(DISABLE) == "1":
        return f"{DISABLE}=1 is set"
    if _interpreted() or _has_cuda():
        return None
    if os.environ.get(FORCE) == "1":
        return f"{FORCE}=1 is set without TRITON_INTERPRET=1"
    return "there is no CUDA device"


def uses_triton(*tensors: Tensor) -> bool:
    """Whether an operator on these tensors runs its kernel, as far as installation and devices go.

    Fake tensors of a CUDA device count as the device's, so that a compiler sees the launch.
    """
    if unavailable() is not None:
        return False
    if all(tensor.device.type == "cuda" for tensor in tensors):
        return True
    return _interpreted() and all(_is_plain(tensor) for tensor in tensors)


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Make a tensor's device the current one, where Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def tuned(choices: Sequence[Choice], key: Sequence[str]) -> Callable[[_Function], _Function]:
    """Let a kernel be launched in the fastest of several ways, measured at first use on a GPU.

    Elsewhere the first is taken: the interpreter cannot measure.

    Args:
        choices: the ways.
        key: names of the kernel's arguments on whose change it is measured again.
    """

    def decorate(kernel: _Function) -> _Function:
        if triton is None:
            return kernel
        taken = choices if _has_cuda() and os.environ.get("TRITON_INTERPRET") != "1" else choices[:1]
        configurations = [
            triton.Config(dict(choice.constants), num_warps=choice.num_warps, num_stages=choice.num_stages)
            for choice in taken
        ]
        wrapped: _Function = triton.autotune(configs=configurations, key=list(key))(kernel)
        return wrapped

    return decorate


def _interpreted() -> bool:
    return os.environ.get(FORCE) == "1" and os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _has_cuda() -> bool:
    return torch.cuda.is_available()


def _is_plain(tensor: Any) -> bool:
    """Whether a tensor has memory that the interpreter can read; what a compiler traces with has none."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu"
