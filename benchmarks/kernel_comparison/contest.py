"""One case: what is counted of it, and on a GPU what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kernel_comparison.cases import Arguments, Case, Maker
from kernel_comparison.counting import count
from kernel_comparison.timing import Call, captured, interleaved, sets_for

COPY, EAGER, INDUCTOR, KERNEL = "copy", "eager", "inductor", "kernel"


@dataclass(frozen=True)
class Row:
    """What was found of one case in one dtype.

    Attributes:
        case: the case.
        dtype: the tensors' type.
        unit: bytes of one hidden tensor.
        before: bytes that single operations move, counted.
        operations: name and bytes of each of them.
        after: bytes that the kernel moves.
        refused: why the kernel does not take the arguments; empty where it does.
        seconds: of a copy that moves as many bytes as the kernel, of single operations, of inductor's code for them and
            of the kernel; empty without a GPU.
    """

    case: Case
    dtype: torch.dtype
    unit: float
    before: int
    operations: tuple[tuple[str, int], ...]
    after: int
    refused: str
    seconds: dict[str, float] = field(default_factory=dict)


def counted(case: Case, dtype: torch.dtype) -> Row:
    """Count the bytes of a case."""
    arguments = case.make(Maker("meta", dtype))
    operations = count(case.entry.reference, case.unfused(arguments))
    return Row(
        case,
        dtype,
        case.unit_bytes(arguments),
        operations.total,
        tuple(operations.operations),
        case.entry.bytes_after(*arguments),
        case.entry.supports(*arguments) or "",
    )


@torch.no_grad()
def timed(row: Row, rounds: int) -> Row:
    """Measure a case on the GPU."""
    maker = Maker("cuda", row.dtype)
    first = row.case.make(maker)
    sets = [first, *(row.case.make(maker) for _ in range(sets_for(_bytes(first)) - 1))]
    plain = [row.case.unfused(arguments) for arguments in sets]
    kernel = row.case.entry
    torch.compiler.reset()  # compiled code is kept for so many shapes of a function and no more
    calls: dict[str, tuple[Call, Sequence[Arguments]]] = {
        EAGER: (kernel.reference, plain),
        INDUCTOR: (torch.compile(kernel.reference, fullgraph=True, dynamic=False), plain),
        KERNEL: (kernel.op, sets),
        COPY: (torch.clone, _sources(row)),
    }
    replays = {name: captured(call, arguments) for name, (call, arguments) in calls.items()}
    seconds = interleaved(replays, rounds)
    return Row(row.case, row.dtype, row.unit, row.before, row.operations, row.after, row.refused, seconds)


def _sources(row: Row) -> list[tuple[Tensor]]:
    """Tensors whose copies read and write, together, as many bytes as the kernel does."""
    half = row.after // 2
    return [(torch.zeros(half, dtype=torch.uint8, device="cuda"),) for _ in range(sets_for(half))]


def _bytes(arguments: Any) -> int:
    return sum(leaf.nbytes for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor))
