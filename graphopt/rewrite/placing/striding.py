"""A stride of two: one step computes its own output and that of the next, which then computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from graphopt.copying import GraphCopy, copy_graph
from graphopt.cost import integer_shape
from graphopt.errors import PlanError
from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.rewrite.placing.copies import kept_sites, remade
from graphopt.rewrite.placing.placed import Placed, Roles, output_nodes, site_of
from graphopt.stages import Delay, Site
from graphopt.values import value_of

NOW = "{}_now"
"""Name of the copy of a node that computes the output of the present step."""

REPLAYED = "{}_replayed"
"""Name of what a step that computes nothing returns."""

NEXT = "{}_next"
"""Name of the extra input: the timestep of the next step."""


def stride_two(late: Placed, timestep: str | None) -> tuple[Placed, Placed]:
    """Let a steady step compute two outputs, with one more device.

    The devices compute the next step's output, from the present sample at the next timestep; a new device repeats what
    the device of the output computes, at the present timestep, for this step's own output.

    Args:
        late: a placed graph with delays, its outputs all on one device.
        timestep: name of the timestep's placeholder; None where the model takes none.

    Returns:
        The placed graph of a step that computes, and of one that returns what the step before computed for it.

    Raises:
        PlanError: the outputs are on several devices, or nothing is late.

    References:
        Chen et al., AsyncDiff, NeurIPS 2024, arXiv 2406.06911: stride 2. There the step that computes depends on the
        number of the step, here on its distance from the warm-up.
    """
    outputs = output_nodes(late.program.graph_module)
    devices = {site_of(late, node).device for node in outputs}
    if len(devices) != 1 or not late.delays:
        raise PlanError(
            f"a stride of 2 repeats the device of the outputs, found outputs on {sorted(devices)} and "
            f"{len(late.delays)} late values; use stride=1"
        )
    return _computing(late, timestep, devices.pop()), _replaying(late, outputs)


def _computing(late: Placed, timestep: str | None, last: int) -> Placed:
    duplicate = copy_graph(late.program.graph_module)
    program = late.program
    if timestep is not None:
        program = _with_next(late.program, duplicate, timestep)
    new = 1 + max(site.device for site in late.sites.values())
    sites, delays = dict(late.sites), list(late.delays)
    copies = _repeat(late, duplicate, last, timestep)
    sites.update({copy.name: Site(new) for copy in copies.values()})
    by_name = {delay.name: delay for delay in late.delays}
    for node, copy in copies.items():
        if node.name in by_name:
            delays.append(replace(by_name[node.name], name=copy.name, device=new))
    delays += [Delay(REPLAYED.format(node.name), node.name, late.sampler) for node in _own_outputs(late)]
    # Nobody in the graph reads the next step's output: it is kept for the step that returns it.
    made = replace(program, graph_module=duplicate.assemble())
    return replace(late, program=made, sites=kept_sites(made, sites), delays=tuple(delays))


def _with_next(program: Program, duplicate: GraphCopy, timestep: str) -> Program:
    """Add the timestep of the next step to the inputs, and let all nodes read it."""
    name = NEXT.format(timestep)
    places = duplicate.graph.find_nodes(op="placeholder")
    now = next((node for node in places if node.name == timestep), None)
    if now is None:
        raise PlanError(f"found no input {timestep}, wanted the timestep; pass the model's own name of it")
    with duplicate.graph.inserting_after(places[-1]):
        later = duplicate.graph.placeholder(name)
    later.meta["val"] = value_of(now)
    now.replace_all_uses_with(later)
    leaves = ExampleInputs(program.args, dict(program.kwargs)).leaves()
    return _extended(program, duplicate, {name: leaves[places.index(now)]})


def _extended(program: Program, duplicate: GraphCopy, examples: Mapping[str, Tensor]) -> Program:
    """The program called with more keyword inputs, whose placeholders are the last."""
    codegen = duplicate.graph._codegen
    if not isinstance(codegen, _PyTreeCodeGen):
        raise PlanError("the program has no calling convention to extend; capture the model with graphopt.capture")
    info = codegen.pytree_info
    args, kwargs = pytree.tree_unflatten(range(info.in_spec.num_leaves), info.in_spec)
    in_spec = pytree.tree_structure((args, {**kwargs, **dict.fromkeys(examples, 0)}))
    duplicate.graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo([*info.orig_args, *examples], in_spec, info.out_spec)))
    return replace(program, kwargs={**program.kwargs, **examples})


def _repeat(late: Placed, duplicate: GraphCopy, last: int, timestep: str | None) -> dict[fx.Node, fx.Node]:
    """Repeat the nodes of a device, with what is free among their operands, and return those as outputs."""
    roles = Roles(late.program.graph_module)
    copies: dict[fx.Node, fx.Node] = {}
    free: dict[fx.Node, fx.Node] = {}
    now = {node.name: node for node in duplicate.graph.find_nodes(op="placeholder")}
    output = duplicate.graph.output_node()

    def operand(node: fx.Node) -> fx.Node:
        known = {**free, **copies}
        return now[node.name] if node.name == timestep else known.get(node, duplicate.nodes[node])

    for node in late.program.graph_module.graph.nodes:
        if node.op != "call_function":
            continue
        with duplicate.graph.inserting_before(output):
            if node in roles.free:
                free[node] = duplicate.graph.node_copy(node, operand)
            elif site_of(late, node).device == last:
                copies[node] = duplicate.graph.node_copy(node, operand)
                copies[node]._rename(NOW.format(node.name))
    output.args = fx.map_arg(
        late.program.graph_module.graph.output_node().args, lambda node: copies.get(node, duplicate.nodes[node])
    )
    return copies


def _own_outputs(late: Placed) -> list[fx.Node]:
    return list(dict.fromkeys(output_nodes(late.program.graph_module)))


def _replaying(late: Placed, outputs: list[fx.Node]) -> Placed:
    """The graph of a step that returns what was kept."""
    duplicate = copy_graph(late.program.graph_module)
    last = duplicate.graph.find_nodes(op="placeholder")[-1]
    kept: dict[fx.Node, fx.Node] = {}
    delays = []
    for node in dict.fromkeys(outputs):
        with duplicate.graph.inserting_after(last):
            last = duplicate.graph.placeholder(REPLAYED.format(node.name))
        last.meta["val"] = value_of(node)
        kept[duplicate.nodes[node]] = last
        delays.append(Delay(last.name, node.name, late.sampler))
    output = duplicate.graph.output_node()
    output.args = fx.map_arg(output.args, kept.__getitem__)
    examples = {
        delay.name: torch.zeros(integer_shape(value_of(node))) for delay, node in zip(delays, kept, strict=True)
    }
    program = _extended(late.program, duplicate, examples)
    made = remade(duplicate.assemble(), program)
    return Placed(made, {delay.name: Site(late.sampler) for delay in delays}, tuple(delays), late.sampler)
