"""A program whose batch is computed in parts: micro-batches of a pipeline, or the two halves of guidance."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.placing.copies import PlacedBuilder, kept_sites
from graphopt.rewrite.placing.memory import WrittenMemory
from graphopt.rewrite.placing.placed import Placed, output_nodes, require_whole
from graphopt.stages import Site
from graphopt.values import is_symbolic, value_of

aten = torch.ops.aten


def split_batch(placed: Placed, parts: int, site: Callable[[Site, int], Site]) -> Placed:
    """Compute the batch of a placed program in parts.

    Part i has the rows from ``floor(i * batch / parts)`` to ``floor((i + 1) * batch / parts)``; what it gives is
    joined at the sampler. Parameters are shared by the parts.

    Args:
        placed: the program, without copies so far.
        parts: number of parts, at most as many as rows.
        site: gives the site of a node in a part from its site in the whole.

    Raises:
        PlanError: the batch is not symbolic, or an input or output carries it in a way that cannot be cut.
    """
    program = placed.program
    _require_batch(program)
    builder = PlacedBuilder(program)
    made: dict[tuple[fx.Node, int], fx.Node] = {}
    for part in range(parts):
        for node in program.graph_module.graph.nodes:
            if node.op == "placeholder":
                made[node, part] = _rows(builder, node, part, parts, Site(placed.sampler, part))
            elif node.op != "output":
                where = placed.sites.get(node.name)
                here = None if where is None else site(where, part)
                name = node.name if part == 0 else f"{node.name}_part_{part}"
                made[node, part] = builder.add(node, partial(_operand, made, part), name, here)
    outputs = dict.fromkeys(output_nodes(program.graph_module))
    joined = {node: _joined(builder, [made[node, part] for part in range(parts)], node, placed) for node in outputs}
    whole = builder.finish(joined.__getitem__, fresh=False)
    result = Placed(whole, kept_sites(whole, builder.sites), sampler=placed.sampler, parts=parts)
    require_whole(result)
    return result


def _operand(made: Mapping[tuple[fx.Node, int], fx.Node], part: int, operand: fx.Node) -> fx.Node:
    return made[operand, part]


def _require_batch(program: Program) -> None:
    if not program.dynamic_batch:
        raise PlanError(
            "the batch of the program is static, so it cannot be computed in parts; capture the model with a batch "
            "that can change, or leave micro-batches and the split of guidance out"
        )
    for node in WrittenMemory(program.graph_module).outside():
        raise PlanError(
            f"the program writes to {str(node.target)!r}, which each part of the batch would do; leave micro-batches "
            "and the split of guidance out"
        )
    symbols = {
        str(size.node.expr)
        for node in (*program.graph_module.graph.find_nodes(op="placeholder"), *output_nodes(program.graph_module))
        for size in _symbolic_sizes(node)
    }
    if len(symbols) > 1:
        raise PlanError(
            f"the sizes {sorted(symbols)} of inputs and outputs change with the batch, wanted the batch alone; leave "
            "micro-batches and the split of guidance out"
        )


def _symbolic_sizes(node: fx.Node) -> list[Any]:
    value = value_of(node)
    sizes: Any = value.shape if isinstance(value, Tensor) else ()
    return [size for size in sizes if is_symbolic(size)]


def batch_dim(node: fx.Node) -> int | None:
    """Return the dimension of a value that is the batch; None where it has none."""
    value = value_of(node)
    if not isinstance(value, Tensor):
        return None
    return next((dim for dim, size in enumerate(value.shape) if is_symbolic(size)), None)


def _rows(builder: PlacedBuilder, node: fx.Node, part: int, parts: int, site: Site) -> fx.Node:
    """The rows of an input that a part reads; they are cut where the input is."""
    whole, dim = builder.input(node), batch_dim(node)
    if dim is None or parts == 1:
        return whole
    rows = value_of(node).shape[dim]
    size = builder.call(aten.sym_size.int, (whole, dim), f"{node.name}_rows_{part}", None, rows)
    start, end = (_share(builder, size, number, parts, f"{node.name}_{part}_{number}") for number in (part, part + 1))
    args = (whole, dim, start, end)
    return builder.call(aten.slice.Tensor, args, f"{node.name}_part_{part}", site, value_of(node))


def _share(builder: PlacedBuilder, size: fx.Node, number: int, parts: int, name: str) -> fx.Node:
    """The number ``size * number // parts``."""
    rows = value_of(size)
    times = builder.call(operator.mul, (size, number), f"{name}_times", None, rows * number)
    return builder.call(operator.floordiv, (times, parts), f"{name}_share", None, rows * number // parts)


def _joined(builder: PlacedBuilder, made: list[fx.Node], node: fx.Node, placed: Placed) -> fx.Node:
    """What the parts gave of an output, as one tensor at the sampler; what has no batch is taken from the first."""
    dim = batch_dim(node)
    if dim is None or len(made) == 1 or made[0] is made[1]:
        return made[0]
    return builder.call(aten.cat.default, (made, dim), f"{node.name}_joined", Site(placed.sampler), value_of(node))
