"""Parameters that scale a value: multiplied instead of the value, they give the same."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.arguments import packet_of
from graphopt.program import Program

aten = torch.ops.aten

MOVES = {
    aten.reshape, aten.view, aten.transpose, aten.permute, aten.expand, aten.slice, aten.select, aten.unsqueeze,
    aten.squeeze, aten.flatten, aten.unflatten, aten.clone, aten.contiguous, aten.t, aten.movedim, aten.to,
    aten.index_select, aten.alias, aten.split_with_sizes, aten.unbind, aten.repeat, aten.repeat_interleave,
    aten.roll, aten.flip, aten.cat, aten.stack, aten.neg, aten.pad, aten.constant_pad_nd, aten.index,
}  # fmt: skip
"""Operators that put elements elsewhere, unchanged but for the sign."""

SUMS = {aten.add, aten.sub, aten.where}
PRODUCTS = {aten.mul, aten.matmul, aten.bmm, aten.einsum, aten.mm}
LAYERS = {
    aten.linear: -1, aten.conv1d: 1, aten.conv2d: 1, aten.conv3d: 1, aten.layer_norm: -1, aten.rms_norm: -1,
    aten.batch_norm: 1, aten.group_norm: 1, aten.embedding: -1,
}  # fmt: skip
"""Operators whose weight and bias scale an output dimension, with that dimension."""


@dataclass
class Scaling:
    """Finds which elements of which parameters to multiply so that a value of a program is multiplied.

    Attributes:
        program: the program.
        values: every value on the example inputs, by node.
    """

    program: Program
    values: Mapping[fx.Node, Any]
    _found: dict[str, Tensor] = field(default_factory=dict)

    def parameters_of(self, node: fx.Node) -> dict[str, Tensor] | None:
        """Masks of parameters by name, of the parameters' shapes; None where no parameter scales all of the value.

        Args:
            node: the value.
        """
        self._found = {}
        whole = torch.ones_like(self.values[node], dtype=torch.float32)
        return dict(self._found) if self._scale(node, whole) else None

    def _scale(self, node: fx.Node, mask: Any) -> bool:
        """Note what scales the marked elements of a value, or of a list of values; tell whether something does."""
        if not any(one.any() for one in pytree.tree_leaves(mask)):
            return True
        if node.op == "get_attr":
            return self._note(node, mask)
        packet = packet_of(node)
        operands = [one for one in node.all_input_nodes if _is_numeric(self.values.get(one))]
        if packet in LAYERS:
            return self._layer(node, mask, LAYERS[packet])
        if packet in MOVES or node.target is operator.getitem:
            return all(self._scale(one, self._before(node, one, mask)) for one in operands)
        if packet in SUMS:
            return all(self._scale(one, _reduced(mask, self.values[one])) for one in operands)
        if packet is aten.div:
            return self._scale(operands[0], _reduced(mask, self.values[operands[0]]))
        if packet is aten.addmm:
            bias, *factors = operands
            return self._scale(bias, _reduced(mask, self.values[bias])) and self._product(packet, factors, mask)
        if packet in PRODUCTS:
            return self._product(packet, operands, mask)
        return False

    def _product(self, packet: Any, operands: list[fx.Node], mask: Tensor) -> bool:
        """Scale one factor of a product: all of it, or the rows or columns that give the marked elements."""
        before = dict(self._found)
        for place, one in enumerate(operands):
            inner = _factor(packet, mask, self.values[one], place)
            if inner is not None and self._scale(one, inner):
                return True
            self._found = dict(before)
        return False

    def _layer(self, node: fx.Node, mask: Tensor, dim: int) -> bool:
        rows = mask.movedim(dim, 0).flatten(1)
        marked = rows[:, :1]
        if not torch.equal(rows, marked.expand_as(rows)):
            return False
        parameters = [one for one in node.all_input_nodes[1:] if one.op == "get_attr"]
        if packet_of(node) is aten.embedding:
            table = node.all_input_nodes[0]
            return self._note(table, marked.flatten().expand(self.values[table].shape))
        if not parameters or len(parameters) != len(node.all_input_nodes) - 1:
            return False
        return all(self._note(one, _along_rows(marked.flatten(), self.values[one])) for one in parameters)

    def _note(self, node: fx.Node, mask: Tensor) -> bool:
        name = str(node.target)
        self._found[name] = torch.maximum(self._found[name], mask) if name in self._found else mask
        return True

    def _before(self, node: fx.Node, operand: fx.Node, mask: Any) -> Any:
        """Which elements of an operand the marked elements of a moved value are."""
        if isinstance(self.values[operand], list | tuple):
            masks = [torch.zeros_like(one, dtype=torch.float32) for one in self.values[operand]]
            masks[cast(int, node.args[1])] = mask
            return masks
        start = torch.zeros_like(self.values[operand], dtype=torch.float32, requires_grad=True)
        given = fx.map_arg((node.args, node.kwargs), lambda one: start if one is operand else self.values[one])
        with torch.enable_grad():
            moved = cast(Callable[..., Any], node.target)(*given[0], **given[1])
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(moved, start, mask, allow_unused=True)
        gradient = gradients[0]
        return torch.zeros_like(start) if gradient is None else (gradient != 0).float()


def _factor(packet: Any, mask: Tensor, value: Tensor, place: int) -> Tensor | None:
    """The mask of a factor that gives the marked elements of a product; None where it gives others too."""
    if packet is aten.mul:
        return _reduced(mask, value)
    if mask.all():
        return torch.ones_like(value, dtype=torch.float32)
    return None if packet is aten.einsum else _lines(mask, value, last=place == 1)


def _lines(mask: Tensor, value: Tensor, *, last: bool) -> Tensor | None:
    """The mask of a matrix product's factor whose rows, or columns, give the marked ones; None where they do not."""
    dim = -1 if last else -2
    lines = mask.movedim(dim, 0).flatten(1)[:, 0]
    spread = lines if last else lines.unsqueeze(-1)
    return spread.expand(value.shape).clone() if torch.equal(spread.expand(mask.shape), mask) else None


def _is_numeric(value: Any) -> bool:
    """Tell whether a value is one that can be multiplied, or a list of such."""
    leaves = [value] if isinstance(value, Tensor) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves)


def _reduced(mask: Tensor, value: Tensor) -> Tensor:
    """The mask of an operand that is broadcast to a marked value."""
    return mask.sum_to_size(value.shape).gt(0).float() if mask.shape != value.shape else mask


def _along_rows(marked: Tensor, parameter: Tensor) -> Tensor:
    """The mask of a parameter whose first dimension is the marked one."""
    return marked.reshape(-1, *[1] * (parameter.ndim - 1)).expand(parameter.shape)
