"""Sizes of values: on the example inputs, and in a segment that lacks the tensor which the whole program asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.values import hint, is_symbolic, value_of

aten = torch.ops.aten


def number_from(graph: fx.Graph, number: fx.Node, known: Iterable[tuple[fx.Node, fx.Node]]) -> fx.Node | int | None:
    """Give a size of the whole program in a segment.

    Args:
        graph: the segment's graph, with its insertion point where the size may be computed.
        number: the size, a node of the whole program that asks a tensor for it.
        known: tensors of the whole program that are there in the segment, each with its node there.

    Returns:
        The size as a number where it is fixed, else the node of it; None where no known tensor has it.
    """
    wanted = value_of(number)
    if not isinstance(wanted, torch.SymInt):
        return wanted if isinstance(wanted, int) else None
    if not is_symbolic(wanted):
        return int(wanted)
    for original, here in known:
        value = value_of(original)
        for dim, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if _expression(size) == wanted.node.expr:
                found = graph.call_function(aten.sym_size.int, (here, dim))
                found.meta["val"] = wanted
                return found
    return None


def asks_tensor(number: fx.Node) -> bool:
    """Tell whether a size is asked of a tensor, rather than computed from other sizes."""
    return any(isinstance(value_of(operand), Tensor) for operand in number.all_input_nodes)


def symbols_of(program: Program) -> dict[Any, int]:
    """Return the symbols of input sizes, the batch above all, each with its number on the example inputs."""
    leaves = ExampleInputs(program.args, dict(program.kwargs)).leaves()
    places = program.graph_module.graph.find_nodes(op="placeholder")
    found: dict[Any, int] = {}
    for node, leaf in zip(places, leaves, strict=True):
        value = value_of(node)
        for dim, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            symbol = _expression(size)
            if symbol is not None and symbol.is_symbol:
                found.setdefault(symbol, int(leaf.shape[dim]))
    return found


def example_shape(value: Tensor, symbols: Mapping[Any, int]) -> tuple[int, ...]:
    """Return the shape of a value on the example inputs, be they smaller than what symbolic sizes stand for.

    Args:
        value: a fake tensor.
        symbols: what `symbols_of` says.
    """
    return tuple(_size(size, symbols) for size in value.shape)


def _expression(size: Any) -> Any:
    """The expression of a symbolic size, None of a fixed one."""
    return size.node.expr if is_symbolic(size) else None


def _size(size: Any, symbols: Mapping[Any, int]) -> int:
    if not is_symbolic(size):
        return hint(size)
    number = size.node.expr.subs(symbols)
    return int(number) if number.is_number else hint(size)
