"""Two recordings of a model become one graph: equal calls are nodes, numbers that differ are multiples of the batch."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch._higher_order_ops.wrap import wrap_with_autocast, wrap_with_set_grad_enabled

from graphopt.batch import Batch
from graphopt.recording import (
    ENTER_AUTOCAST,
    EXIT_AUTOCAST,
    REGIONS,
    SET_GRADIENTS,
    Call,
    Recording,
    Ref,
    UnrecordableError,
    refs_in,
)

Pair = tuple[Call, Call]
"""The same call in both runs."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a model.

    Attributes:
        leaves: Stand-ins of the inputs' tensors, and the inputs' other leaves as they are.
        refs: The same, with a `Ref` for each tensor.
        outputs: Leaves of what the model returned, with a `Ref` for each tensor.
        recording: What it did on the way.
    """

    leaves: Sequence[Any]
    refs: Sequence[Any]
    outputs: Sequence[Any]
    recording: Recording


@dataclass(eq=False)
class _Scope:
    """A graph that is being built, and the one around it.

    Attributes:
        graph: The graph.
        outer: The graph around, None for the outermost.
        nodes: What is known here, by number; sizes that are multiples of the batch by how many times.
        operands: Nodes of the graph around that stand for the placeholders here.
        bodies: Bodies of the regions in it, by name.
    """

    graph: fx.Graph
    outer: _Scope | None = None
    nodes: dict[Ref | int, fx.Node] = field(default_factory=dict)
    operands: list[fx.Node] = field(default_factory=list)
    bodies: dict[str, fx.GraphModule] = field(default_factory=dict)

    def find(self, key: Ref | int) -> fx.Node | None:
        """Return the node for a tensor or a size; what the graph around knows becomes a placeholder here."""
        if key in self.nodes or self.outer is None:
            return self.nodes.get(key)
        found = self.outer.find(key)
        if found is None:
            return None
        first = next((node for node in self.graph.nodes if node.op != "placeholder"), None)
        with nullcontext() if first is None else self.graph.inserting_before(first):
            made = self.graph.placeholder(found.name)
        made.target = made.name
        made.meta["val"] = found.meta["val"]
        self.nodes[key] = made
        self.operands.append(found)
        return made


class RecordedGraph:
    """Builds the graph of two runs, or of one that is given twice.

    Args:
        batch: Joins the values of the runs.
        runs: At the example's batch, and at the other.
        names: Names of the placeholders.
        row: Place among the placeholders of one whose first size is the batch, None where there is none.

    Attributes:
        graph: What is built; the calling convention is still to be set.
        bodies: Bodies of regions without gradients or with other autocast, by name.
    """

    def __init__(self, batch: Batch, runs: tuple[Run, Run], names: Sequence[str], row: int | None) -> None:
        self.graph = fx.Graph()
        self._batch = batch
        self._runs = runs
        self._scope = _Scope(self.graph)
        self.bodies = self._scope.bodies
        placeholders = [
            self._placeholder(*item) for item in zip(names, runs[0].refs, *(run.leaves for run in runs), strict=True)
        ]
        self._row = None if row is None else placeholders[row]
        self._last_reads = _last_reads(runs[0])

    def add_tensors(self, tensors: Mapping[str, tuple[Ref, Any, Any]]) -> None:
        """Add the tensors that the graph reads, each with its number and its two stand-ins, before any call.

        Of one that has a row for each of the batch, the graph holds one row.
        """
        for name, (ref, *pair) in tensors.items():
            node = self.graph.create_node("get_attr", name, (), {}, name.replace(".", "_"))
            low, high = pair
            if low.shape == high.shape:
                node.meta["val"] = self._batch.join(low, high)
            self._scope.nodes[ref] = node if low.shape == high.shape else self._spread(node, low, high)

    def _spread(self, node: fx.Node, low: torch.Tensor, high: torch.Tensor) -> fx.Node:
        """Return the node that repeats a row for all of the batch."""
        with self._batch.mode:
            node.meta["val"] = torch.empty((1, *low.shape[1:]), dtype=low.dtype, device=low.device)
        times: list[Any] = [self._multiple(self._batch.factor(len(low), len(high)), {}), *[1] * (low.ndim - 1)]
        repeated = self.graph.call_function(torch.ops.aten.repeat.default, (node, times))
        repeated.meta["val"] = self._batch.join(low, high)
        return repeated

    def add_calls(self) -> None:
        """Add every call and the output.

        Raises:
            UnrecordableError: The runs made different calls.
            UnjoinableError: They differ by more than multiples of the batch.
        """
        first, second = (run.recording.calls for run in self._runs)
        if len(first) != len(second):
            raise UnrecordableError(f"the code makes {len(first)} calls at one batch and {len(second)} at another")
        pairs = list(zip(first, second, strict=True))
        if any(one.target is not other.target for one, other in pairs):
            raise UnrecordableError("the code makes other calls at another batch")
        self._add(pairs, 0, len(pairs))
        outputs = zip(*(run.outputs for run in self._runs), strict=True)
        self.graph.output(tuple([self._argument(low, high, {}) for low, high in outputs]))

    def _placeholder(self, name: str, ref: Any, low: Any, high: Any) -> fx.Node:
        node = self.graph.placeholder(name)
        node.target = node.name
        node.meta["val"] = self._batch.join(low, high) if isinstance(ref, Ref) else low
        if isinstance(ref, Ref):
            self._scope.nodes[ref] = node
        return node

    def _add(self, pairs: Sequence[Pair], start: int, stop: int) -> None:
        """Add the calls from one place to another."""
        place = start
        while place < stop:
            low, high = pairs[place]
            if low.target not in REGIONS:
                self._call(low, high)
                place += 1
            elif low.target is SET_GRADIENTS and low.args[0]:
                place += 1
            else:
                end = _end_of_region(pairs, place, stop)
                self._region(pairs, place, end)
                place = end if low.target is SET_GRADIENTS else end + 1

    def _call(self, low: Call, high: Call) -> None:
        if len(low.args) != len(high.args) or list(low.kwargs) != list(high.kwargs):
            raise UnrecordableError(f"{low.target} is called in another way at another batch")
        meta = dict(low.origin)
        args = tuple([self._argument(*pair, meta) for pair in zip(low.args, high.args, strict=True)])
        kwargs = {name: self._argument(value, high.kwargs[name], meta) for name, value in low.kwargs.items()}
        name = low.target.overloadpacket.__name__
        node = self._scope.graph.create_node("call_function", low.target, args, kwargs, name)
        node.meta = meta | {"val": self._batch.join(low.result, high.result)}
        self._results(node, low.refs)

    def _results(self, node: fx.Node, refs: Any) -> None:
        """Note which nodes give which tensors."""
        if isinstance(refs, Ref):
            self._scope.nodes[refs] = node
        for place, ref in enumerate(refs if isinstance(refs, list) else ()):
            item = self._scope.graph.call_function(operator.getitem, (node, place))
            item.meta = {**node.meta, "val": node.meta["val"][place]}
            self._results(item, ref)

    def _region(self, pairs: Sequence[Pair], start: int, end: int) -> None:
        """Add a region as a higher-order operator, whose body is a graph of its own."""
        opening = pairs[start][0]
        inner = self._scope = _Scope(fx.Graph(), self._scope)
        self._add(pairs, start + 1, end)
        results = {key: node for key, node in inner.nodes.items() if self._is_read_after(key, end) and _is_made(node)}
        outer = self._scope = inner.outer or inner
        if not results:
            return
        inner.graph.output(tuple(results.values()))
        name = f"submod_{len(outer.bodies) + 1}"
        outer.bodies[name] = fx.GraphModule(_holder(inner.bodies), inner.graph)
        body = outer.graph.create_node("get_attr", name)
        target = wrap_with_set_grad_enabled if opening.target is SET_GRADIENTS else wrap_with_autocast
        node = outer.graph.call_function(target, (*opening.args, body, *inner.operands))
        node.meta = dict(opening.origin) | {"val": tuple(result.meta["val"] for result in results.values())}
        for place, (key, result) in enumerate(results.items()):
            outer.nodes[key] = outer.graph.call_function(operator.getitem, (node, place))
            outer.nodes[key].meta = dict(result.meta)

    def _is_read_after(self, key: Ref | int, place: int) -> bool:
        return isinstance(key, Ref) and self._last_reads.get(key, -1) >= place

    def _argument(self, low: Any, high: Any, meta: Mapping[str, Any]) -> Any:
        """Return what stands for an argument in the graph."""
        if isinstance(low, Ref):
            node = self._scope.find(low)
            if low != high or node is None:
                raise UnrecordableError("an operand is another tensor at another batch")
            return node
        if isinstance(low, list | tuple):
            if not isinstance(high, list | tuple) or len(low) != len(high):
                raise UnrecordableError(f"an argument is {low} at one batch and {high} at another")
            return [self._argument(*pair, meta) for pair in zip(low, high, strict=True)]
        if type(low) is int and type(high) is int and low != high:
            return self._multiple(self._batch.factor(low, high), meta)
        if low is high or low == high:
            return low
        raise UnrecordableError(f"an argument is {low!r} at one batch and {high!r} at another")

    def _multiple(self, factor: int, meta: Mapping[str, Any]) -> fx.Node:
        """Return the node that computes so many times the batch, made in the outermost graph if need be."""
        known = self._scope.find(factor)
        if known is not None:
            return known
        scope, self._scope = self._scope, self._outermost()
        if factor == 1:
            with self.graph.inserting_after(self.graph.find_nodes(op="placeholder")[-1]):
                node = self.graph.call_function(torch.ops.aten.sym_size.int, (self._row, 0))
        else:
            node = self.graph.call_function(operator.mul, (self._multiple(1, meta), factor))
        node.meta = {**meta, "val": self._batch.multiple(factor)}
        self._scope.nodes[factor] = node
        self._scope = scope
        return self._scope.find(factor) or node

    def _outermost(self) -> _Scope:
        scope = self._scope
        while scope.outer is not None:
            scope = scope.outer
        return scope


def _holder(bodies: Mapping[str, fx.GraphModule]) -> nn.Module:
    holder = nn.Module()
    for name, body in bodies.items():
        holder.add_module(name, body)
    return holder


def _is_made(node: fx.Node) -> bool:
    return node.op != "placeholder"


def _last_reads(run: Run) -> dict[Ref, int]:
    """Return the place of the last call that reads each tensor; what the model returns is read after all calls."""
    last = {ref: place for place, call in enumerate(run.recording.calls) for ref in refs_in((call.args, call.kwargs))}
    return last | dict.fromkeys(refs_in(run.outputs), len(run.recording.calls))


def _end_of_region(pairs: Sequence[Pair], start: int, stop: int) -> int:
    """Return the place of the call that ends a region.

    Raises:
        UnrecordableError: It ends outside of the region around it.
    """
    ends_itself = pairs[start][0].target is SET_GRADIENTS
    depth = 0
    for place in range(start + 1, stop):
        target = pairs[place][0].target
        if depth == 0 and target is (SET_GRADIENTS if ends_itself else EXIT_AUTOCAST):
            return place
        depth += (target is ENTER_AUTOCAST) - (target is EXIT_AUTOCAST)
        if depth < 0:
            break
    if depth == 0 and ends_itself:
        return stop
    raise UnrecordableError("regions without gradients and with autocast overlap")
