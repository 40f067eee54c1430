"""Bypassing: readers of what a branch or block gives read what enters it, and the branch or block goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, fx

from graphopt.canonical import eliminate_dead_code
from graphopt.copying import copy_graph
from graphopt.cost import integer_shape
from graphopt.errors import PlanError
from graphopt.program import Bypass, Lineage, Program
from graphopt.regions.flow import Flow
from graphopt.tracing import recapture


def bypass(program: Program, bypasses: Sequence[Bypass]) -> Program:
    """The program without some branches and blocks, and without the tensors that only they read.

    The program itself is left as it is; tensors that stay are shared, bit for bit.

    Args:
        program: the captured program.
        bypasses: what is left out. One that lies in another is left out with it.

    Returns:
        A new program whose lineage names the captured one and what was left out, with the tensors that each took.

    Raises:
        PlanError: the program was rewritten before, it has no such values, or they are of other shapes.
    """
    if program.lineage is not None:
        raise PlanError("the program was rewritten before; bypass in the captured one: its lineage.origin")
    graph_module = bypassed_graph(program, [one.replaced for one in bypasses])
    lineage = Lineage(program, {}, bypassed=tuple(_with_tensors(program, bypasses)))
    return recapture(graph_module, program.args, program.kwargs, program, lineage=lineage)


def bypassed_graph(program: Program, replaced: Sequence[Mapping[str, str]]) -> fx.GraphModule:
    """The graph without some branches and blocks, as it is before shapes are computed anew.

    Args:
        program: the program, left as it is.
        replaced: for each branch or block the nodes whose readers read another one, with that other node.

    Raises:
        PlanError: the program has no such values, or they are of other shapes.
    """
    sources = resolved(program, replaced)
    copied = copy_graph(program.graph_module)
    for output, source in sources.items():
        copied.nodes[output].replace_all_uses_with(copied.nodes[source])
    graph_module = copied.assemble()
    eliminate_dead_code(graph_module)
    return graph_module


def resolved(program: Program, replaced: Sequence[Mapping[str, str]]) -> dict[fx.Node, fx.Node]:
    """Each node whose readers read another one, with the node that they read in the end.

    Of several that replace one node, the one that goes back furthest wins: it leaves out what the others leave out.

    Args:
        program: where the nodes are.
        replaced: for each branch or block its replaced nodes by name.

    Raises:
        PlanError: the program has no such values, they are of other shapes, or one would be read before it is made.
    """
    order = {node: place for place, node in enumerate(program.graph_module.graph.nodes)}
    nodes = {node.name: node for node in order}
    found: dict[fx.Node, fx.Node] = {}
    for output, source in ((name, other) for one in replaced for name, other in one.items()):
        after, before = _node(nodes, output), _node(nodes, source)
        _require_alike(after, before, order)
        found[after] = min(before, found.get(after, before), key=order.__getitem__)
    for node in sorted(found, key=order.__getitem__):
        found[node] = found.get(found[node], found[node])
    return found


def _with_tensors(program: Program, bypasses: Sequence[Bypass]) -> Iterator[Bypass]:
    """Yield each bypass with the names of the tensors that leave with it, after those before it."""
    flow = Flow(program)
    tensors = program.parameters
    reads = [(node, id(tensors[str(node.target)])) for node in flow.nodes if node.target in tensors]
    left = {place for _, place in reads}
    for count, one in enumerate(bypasses, start=1):
        sources = resolved(program, [other.replaced for other in bypasses[:count]])
        dead = set(flow.dying(sources, set(sources.values())))
        read = {place for node, place in reads if node not in dead}
        yield replace(one, tensors=tuple(name for name, tensor in tensors.items() if id(tensor) in left - read))
        left = read


def _node(nodes: Mapping[str, fx.Node], name: str) -> fx.Node:
    if name in nodes and isinstance(nodes[name].meta.get("val"), Tensor):
        return nodes[name]
    raise PlanError(
        f"a branch or block is left out at {name}, which is no tensor of this program; the plan was made for another "
        "model or by another release of graphopt: make it again"
    )


def _require_alike(after: fx.Node, before: fx.Node, order: Mapping[fx.Node, int]) -> None:
    found, wanted = before.meta["val"], after.meta["val"]
    shapes = integer_shape(found), integer_shape(wanted)
    if shapes[0] != shapes[1] or found.dtype != wanted.dtype or order[before] >= order[after]:
        raise PlanError(
            f"{before.name}, {found.dtype} {list(shapes[0])}, cannot stand for {after.name}, {wanted.dtype} "
            f"{list(shapes[1])}; what stands for a value is made before it and has its shape and type"
        )
