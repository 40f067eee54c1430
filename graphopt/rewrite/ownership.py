"""What is stored stays as it is: a program that gives its slots out, or writes to them, gets copies of them."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from graphopt.aliasing import Aliases
from graphopt.copying import copy_graph
from graphopt.program import Program
from graphopt.tracing import recapture

aten = torch.ops.aten


def with_own_slots(program: Program, slots: Collection[str]) -> Program:
    """Copy every slot whose memory a program writes to or returns, so that neither it nor its caller can change it.

    Args:
        program: reads slots as inputs.
        slots: names of the placeholders of these inputs.
    """
    exposed = [node for node in _exposed(program.graph_module) if node.name in slots]
    if not exposed:
        return program
    duplicate = copy_graph(program.graph_module)
    last = duplicate.nodes[program.graph_module.graph.find_nodes(op="placeholder")[-1]]
    for original in exposed:
        slot = duplicate.nodes[original]
        with duplicate.graph.inserting_after(last):
            copy = duplicate.graph.call_function(aten.clone.default, (slot,))
        copy.meta["val"] = slot.meta["val"]
        for user in [user for user in slot.users if user is not copy]:
            user.replace_input_with(slot, copy)
    return recapture(duplicate.assemble(), program.args, program.kwargs, program, lineage=program.lineage)


def _exposed(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Placeholders whose memory is written to, or in which an output lies."""
    aliases = Aliases(graph_module)
    outputs = set(graph_module.graph.output_node().all_input_nodes)
    places = graph_module.graph.find_nodes(op="placeholder")
    return [node for node in places if aliases.is_written(node) or not outputs.isdisjoint(aliases.holders(node))]
