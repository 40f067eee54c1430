"""Bytes that operations read and write, counted one by one while they run on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

READS_TWICE = {torch.ops.aten.native_group_norm.default}
"""Operators that go through their first operand twice: on a GPU one launch takes the moments, a second one normalises.
A LayerNorm does it too, but one row at a time, which it finds in the cache."""


class ByteCount(TorchDispatchMode):
    """Adds up what every ATen operation in its scope reads and writes, each being a launch of its own.

    Views cost nothing, nor does memory that is only allotted. Of an operand that is broadcast each value is read once,
    and an operand that is given twice is read once.

    Attributes:
        operations: name and bytes of each operation, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, int]] = []

    @property
    def total(self) -> int:
        """Bytes of all operations."""
        return sum(size for _, size in self.operations)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        operands, results = list(_tensors((args, kwargs))), list(_tensors(result))
        if _moves_nothing(function) or not (operands or results):
            return result
        size = size_bytes(operands) + size_bytes(results)
        if function in READS_TWICE:
            size += size_bytes(operands[:1])
        self.operations.append((function._schema.name.removeprefix("aten::"), size))
        return result


def count(call: Callable[..., object], arguments: tuple[Any, ...]) -> ByteCount:
    """Count what a function of tensors on the meta device does."""
    counted = ByteCount()
    with torch.no_grad(), counted:
        call(*arguments)
    return counted


def size_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct values of distinct tensors."""
    distinct = {id(tensor): tensor for tensor in tensors}.values()
    return sum(_values(tensor) * tensor.element_size() for tensor in distinct)


def _values(tensor: Tensor) -> int:
    """How many places in memory a tensor has; an expanded dimension has one."""
    return prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)


def _tensors(values: Any) -> Iterable[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor))


def _moves_nothing(function: Any) -> bool:
    """Whether an operator makes views, or takes memory and leaves it as it is."""
    schema = function._schema
    views = any(one.alias_info is not None and not one.alias_info.is_write for one in schema.returns)
    return views or schema.name.startswith(("aten::empty", "aten::new_empty"))
