"""The table of kernels: which there are, what each computes, and whether it runs here."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from graphopt.errors import SpecError

MODULES = {
    "cached_apply": "graphopt.kernels.cached_apply",
    "stack_apply": "graphopt.kernels.stack_apply",
    "channel_statistics": "graphopt.kernels.channel_statistics",
    "split_group_norm": "graphopt.kernels.split_group_norm",
    "taylor_add": "graphopt.kernels.taylor_add",
    "relative_l1": "graphopt.kernels.relative_l1",
}
"""The module of every kernel, imported at first use: it imports Triton and registers the operator."""


@dataclass(frozen=True)
class Kernel:
    """A fused operator.

    All its functions take the operator's arguments; tensors may be real, fake or on the meta device.

    Attributes:
        name: its name in the table.
        op: the operator, an overload such as ``torch.ops.graphopt.cached_apply.default``.
        reference: the same in plain PyTorch: the operations of the unfused graph in their order.
        supports: why the Triton kernel does not take these arguments, in one clause; None where it takes them.
        bytes_before: bytes that the unfused operations read and write, one launch each.
        bytes_after: bytes that the kernel reads and writes.
    """

    name: str
    op: Any
    reference: Callable[..., Any]
    supports: Callable[..., str | None]
    bytes_before: Callable[..., int]
    bytes_after: Callable[..., int]


@dataclass(frozen=True)
class Status:
    """What computes an operator in this process.

    Attributes:
        runs: ``triton`` or ``reference``.
        reason: why Triton does not; empty where it does.
    """

    runs: Literal["triton", "reference"]
    reason: str = ""

    def __str__(self) -> str:
        """Return what runs, and why not the other."""
        return f"{self.runs} ({self.reason})" if self.reason else self.runs


def find_kernel(name: str) -> Kernel:
    """Find a kernel by its name, and register its operator where that has not happened yet.

    Raises:
        SpecError: there is no such kernel.
    """
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(MODULES)}"
        raise SpecError(f"found no kernel {name!r}; {hint}")
    kernel: Kernel = importlib.import_module(MODULES[name]).KERNEL
    return kernel


def all_kernels() -> tuple[Kernel, ...]:
    """Every kernel, in the order of the table."""
    return tuple(find_kernel(name) for name in MODULES)


def status() -> dict[str, Status]:
    """Tell what computes each operator in this process, by the kernel's name.

    A kernel that runs still leaves arguments that it does not take to its reference: ask its ``supports``.
    """
    from graphopt.kernels.launch import unavailable

    reason = unavailable()
    found = Status("triton") if reason is None else Status("reference", reason)
    return dict.fromkeys(MODULES, found)
