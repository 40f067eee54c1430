"""Cutting a program: values become extra outputs, or are taken from extra inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from graphopt.aliasing import Aliases
from graphopt.copying import GraphCopy, copy_graph
from graphopt.cost import integer_shape
from graphopt.cuts import Cut
from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.ownership import with_own_slots
from graphopt.rewrite.pushing import Part, find_part
from graphopt.schedule import DISTANCE, ELAPSED, UPDATES, Schedule, Slot
from graphopt.tracing import recapture
from graphopt.values import value_of

aten = torch.ops.aten


def step_program(program: Program, schedule: Schedule, name: str, examples: Mapping[str, Tensor]) -> Program:
    """Make one of a schedule's programs.

    It takes the model's inputs and, by keyword, what `schedule.inputs(name)` lists; it returns a pair of the model's
    output and a mapping with what `schedule.outputs(name)` lists. What it no longer needs is gone from it, weights
    included; those it keeps are shared with the given program.

    Args:
        program: the program to cut.
        schedule: slots and what this program does with them.
        name: id of the program.
        examples: a tensor for every extra input, shaped as on the example inputs.

    Raises:
        PlanError: a cut names a value that the program does not have, or that cannot be cut there.
    """
    cutter = _Cutter(program, schedule)
    step = schedule.programs[name]
    writes = {slot: cutter.fresh(schedule.slots[slot]) for slot in (*step.writes, *step.renews)}
    outputs = {slot: writes[slot] for slot in step.writes}
    for slot in step.renews:
        outputs.update(cutter.renewed(slot, writes[slot]))
    for slot in step.measures:
        outputs[DISTANCE] = cutter.distance(slot, writes[slot])
    for slot in step.reads:
        cutter.read(slot)
    inputs = schedule.inputs(name)
    graph_module = cutter.finish(inputs, {key: outputs[key] for key in schedule.outputs(name)}, returns=step.returns)
    extras = {key: examples[key] for key in inputs}
    made = recapture(graph_module, program.args, {**program.kwargs, **extras}, program, lineage=program.lineage)
    return with_own_slots(made, inputs)


def lost_inputs(program: Program, cut: Program) -> tuple[str, ...]:
    """Inputs of the model that a cut program no longer reads, though the whole program does."""
    used = {node.name for node in program.graph_module.graph.find_nodes(op="placeholder") if node.users}
    unused = [node.name for node in cut.graph_module.graph.find_nodes(op="placeholder") if not node.users]
    return tuple(name for name in unused if name in used)


class _Cutter:
    """A copy of a program's graph that is being cut."""

    def __init__(self, program: Program, schedule: Schedule) -> None:
        self.schedule = schedule
        self.copy: GraphCopy = copy_graph(program.graph_module)
        self.graph = self.copy.graph
        self.values = {node.name: self.copy.nodes[node] for node in program.graph_module.graph.nodes}
        self.aliases = Aliases(program.graph_module)
        self.originals = {node.name: node for node in program.graph_module.graph.nodes}
        self.inputs: dict[str, fx.Node] = {}
        self.replaced: dict[fx.Node, fx.Node] = {}

    def find(self, name: str) -> fx.Node:
        """The copy of a node that holds a tensor.

        Raises:
            PlanError: there is no such node, or it holds something else.
        """
        if name not in self.values:
            raise PlanError(f"found no value {name} in the program; `graphopt.find_regions` lists what can be cut")
        node = self.values[name]
        if not isinstance(value_of(node), Tensor) or node.op in ("get_attr", "output"):
            raise PlanError(f"{name} is no tensor that the program computes; cut at another value")
        if self.aliases.is_written(self.originals[name]):
            raise PlanError(f"{name} lies in memory that the model writes to in place; cut at another value")
        return node

    def fresh(self, slot: Slot) -> fx.Node:
        """The node of what a slot is filled with, in memory of its own."""
        value = self.find(slot.cut.value)
        if slot.cut.part is not None:
            return self._part(slot.cut).insert(value, self._given, own=True)
        if slot.cut.base is None:
            return self._owned(value, slot.cut.value)
        base = self.find(slot.cut.base)
        self._require_alike(slot, value, base)
        return self._after(value, aten.sub.Tensor, value, base)

    def read(self, slot_name: str) -> None:
        """Let every reader of a slot's value read what is stored."""
        slot = self.schedule.slots[slot_name]
        value = self.find(slot.cut.value)
        stored = self._predicted(slot_name, slot, value)
        fresh = self._fresh_share(slot, value)
        replacement = stored
        if fresh is not None:
            replacement = self._after(stored if stored.op != "placeholder" else value, aten.add.Tensor, fresh, stored)
        self.replaced[value] = replacement
        readers = [user for user in value.users if user is not replacement]
        for user in readers:
            user.replace_input_with(value, replacement)

    def renewed(self, slot_name: str, fresh: fx.Node) -> dict[str, fx.Node]:
        """The backward differences of a slot after a new value, by the name of their tensors.

        References:
            Liu et al., From Reusing to Forecasting: TaylorSeer, arXiv 2503.06923.
        """
        names = self.schedule.slots[slot_name].tensors(slot_name)
        elapsed, updates = self._input(ELAPSED), self._input(UPDATES)
        found, last = {names[0]: fresh}, fresh
        for order, (earlier, name) in enumerate(itertools.pairwise(names), start=1):
            change = self._after(last, aten.sub.Tensor, last, self._input(earlier, fresh))
            slope = self._after(change, aten.div.Tensor, change, elapsed)
            known = self._after(slope, aten.ge.Scalar, updates, order)
            last = self._after(known, aten.where.ScalarOther, known, slope, 0)
            found[name] = last
        return found

    def distance(self, slot_name: str, fresh: fx.Node) -> fx.Node:
        """Mean absolute change of a slot's value over the mean magnitude of the stored one, a scalar.

        References:
            ParaAttention's first-block cache; Liu et al., TeaCache, arXiv 2411.19108, for the relative L1 distance.
        """
        stored = self._input(slot_name, fresh)
        change = self._after(fresh, aten.sub.Tensor, stored, fresh)
        moved = self._after(change, aten.abs.default, change)
        mean = self._after(moved, aten.mean.default, moved)
        size = self._after(mean, aten.abs.default, stored)
        scale = self._after(size, aten.mean.default, size)
        return self._after(scale, aten.div.Tensor, mean, scale)

    def finish(self, inputs: tuple[str, ...], outputs: Mapping[str, fx.Node], *, returns: bool) -> fx.GraphModule:
        """Write the new calling convention and assemble the graph."""
        for name in inputs:
            self._input(name)
        output = self.graph.output_node()
        own = pytree.tree_leaves(output.args) if returns else []
        output.args = ((*own, *outputs.values()),)
        codegen = self.graph._codegen
        if not isinstance(codegen, _PyTreeCodeGen):
            raise PlanError("the program has no calling convention to extend; capture the model with graphopt.capture")
        self.graph.set_codegen(_PyTreeCodeGen(_extended(codegen.pytree_info, inputs, tuple(outputs), returns=returns)))
        self._order_inputs(inputs)
        return self.copy.assemble()

    def _fresh_share(self, slot: Slot, value: fx.Node) -> fx.Node | None:
        """What a step that reads a slot computes and adds to what is stored; None for a value cut."""
        if slot.cut.part is not None:
            return self._part(slot.cut).insert(value, self._given, own=False)
        if slot.cut.base is None:
            return None
        base = self.find(slot.cut.base)
        self._require_alike(slot, value, base)
        return self.replaced.get(base, base)

    def _part(self, cut: Cut) -> Part:
        """The way of a part cut's operand to its sum, in the original graph."""
        for name in (cut.value, str(cut.part)):
            self.find(name)
        part = find_part(self.originals[cut.value], self.originals[str(cut.part)])
        part.require_unwritten(self.aliases)
        return part

    def _given(self, original: fx.Node) -> fx.Node:
        """What stands for a node of the original graph, a stored value where one is read."""
        node = self.copy.nodes[original]
        return self.replaced.get(node, node)

    def _predicted(self, name: str, slot: Slot, like: fx.Node) -> fx.Node:
        """The node of a slot's value at the present step."""
        total = self._input(name, like)
        for order, part in enumerate(slot.tensors(name)[1:], start=1):
            place = like if total.op == "placeholder" else total
            power = self._after(place, aten.pow.Tensor_Scalar, self._input(ELAPSED), order)
            weight = self._after(power, aten.div.Scalar, power, math.factorial(order))
            term = self._after(weight, aten.mul.Tensor, self._input(part, like), weight)
            total = self._after(term, aten.add.Tensor, total, term)
        return total

    def _input(self, name: str, like: fx.Node | None = None) -> fx.Node:
        """The placeholder of an extra input, made at first use."""
        if name not in self.inputs:
            places = self.graph.find_nodes(op="placeholder")
            with self.graph.inserting_after(places[-1]) if places else self.graph.inserting_before():
                self.inputs[name] = self.graph.placeholder(name)
            if like is not None and isinstance(value_of(like), Tensor):
                self.inputs[name].meta["val"] = value_of(like)
        return self.inputs[name]

    def _order_inputs(self, inputs: tuple[str, ...]) -> None:
        """Bring the extra placeholders into the order of the calling convention."""
        last = next(
            node for node in reversed(self.graph.find_nodes(op="placeholder")) if node not in self.inputs.values()
        )
        for name in inputs:
            last.append(self.inputs[name])
            last = self.inputs[name]

    def _after(self, place: fx.Node, target: Any, *args: Any) -> fx.Node:
        with self.graph.inserting_after(place):
            node = self.graph.call_function(target, args)
        node.meta["val"] = value_of(place)
        return node

    def _owned(self, node: fx.Node, name: str) -> fx.Node:
        """A value, or a copy of it where its memory is shared with inputs, outputs or a larger value."""
        value = value_of(node)
        original = self.originals[name]
        ends = {*original.graph.find_nodes(op="placeholder"), *original.graph.output_node().all_input_nodes}
        shared = any(holder in ends for holder in self.aliases.holders(original))
        partial = not shared and any(_larger(value_of(holder), value) for holder in self.aliases.holders(original))
        return self._after(node, aten.clone.default, node) if shared or partial else node

    def _require_alike(self, slot: Slot, value: fx.Node, base: fx.Node) -> None:
        if slot.cut.base not in itertools.takewhile(lambda name: name != slot.cut.value, self.originals):
            raise PlanError(f"the residual cut {slot.cut} goes backwards: {slot.cut.base} does not precede the value")
        found, wanted = value_of(value), value_of(base)
        if found.dtype != wanted.dtype or found.ndim != wanted.ndim or tuple(found.shape) != tuple(wanted.shape):
            raise PlanError(
                f"the residual cut {slot.cut} joins {[*integer_shape(wanted)]} and {[*integer_shape(found)]}; a "
                "residual is only between values of the same shape and dtype: use a value cut"
            )


def _larger(holder: Any, value: Tensor) -> bool:
    return isinstance(holder, Tensor) and holder.dim() > 0 and bool(holder.numel() > value.numel())


def _extended(info: _PyTreeInfo, inputs: tuple[str, ...], outputs: tuple[str, ...], *, returns: bool) -> _PyTreeInfo:
    """The calling convention with more keyword inputs, and a mapping beside the output."""
    args, kwargs = pytree.tree_unflatten(range(info.in_spec.num_leaves), info.in_spec)
    in_spec = pytree.tree_structure((args, {**kwargs, **dict.fromkeys(inputs, 0)}))
    found = pytree.tree_structure(dict.fromkeys(outputs, 0))
    own = info.out_spec if returns and info.out_spec is not None else pytree.tree_structure(())
    return _PyTreeInfo([*info.orig_args, *inputs], in_spec, pytree.TreeSpec(tuple, None, [own, found]))
