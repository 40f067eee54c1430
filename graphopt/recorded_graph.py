"""Two recordings of a model become one graph: equal calls are nodes, numbers that differ are multiples of the batch."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphopt.batch import Batch
from graphopt.recording import REGIONS, Call, Recording, Ref, UnrecordableError


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


class RecordedGraph:
    """Builds the graph of two runs, or of one that is given twice.

    Args:
        batch: Joins the values of the runs.
        runs: At the example's batch, and at the other.
        names: Names of the placeholders.
        row: Place among the placeholders of one whose first size is the batch, None where there is none.

    Attributes:
        graph: What is built; the calling convention is still to be set.
        has_regions: Whether gradients or autocast are switched in it.
    """

    def __init__(self, batch: Batch, runs: tuple[Run, Run], names: Sequence[str], row: int | None) -> None:
        self.graph = fx.Graph()
        self.batch = batch
        self.has_regions = any(call.target in REGIONS for call in runs[0].recording.calls)
        self._runs = runs
        self._nodes: dict[Ref, fx.Node] = {}
        self._multiples: dict[int, fx.Node] = {}
        self._regions: dict[int, fx.Node] = {}
        self._placeholders = [
            self._placeholder(*item) for item in zip(names, runs[0].refs, *(run.leaves for run in runs), strict=True)
        ]
        self._row = None if row is None else self._placeholders[row]

    def add_tensors(self, tensors: Mapping[str, tuple[Ref, Any, Any]]) -> dict[str, str]:
        """Add the tensors that the graph reads, each with its number and its two stand-ins, before any call.

        Returns:
            Name of the placeholder that stands for each of them as yet, none where the graph reads them by name.
        """
        stand_for = {}
        for name, (ref, *pair) in tensors.items():
            if self.has_regions:
                node = self.graph.placeholder(name.replace(".", "_"))
                stand_for[node.name] = name
            else:
                node = self.graph.create_node("get_attr", name, (), {}, name.replace(".", "_"))
            node.meta["val"] = self.batch.join(*pair)
            self._nodes[ref] = node
        return stand_for

    def add_calls(self) -> None:
        """Add every call and the output.

        Raises:
            UnrecordableError: The runs made different calls.
        """
        low, high = (run.recording.calls for run in self._runs)
        if len(low) != len(high):
            raise UnrecordableError(f"the code makes {len(low)} calls at one batch and {len(high)} at another")
        for pair in zip(low, high, strict=True):
            self._call(*pair)
        outputs = (run.outputs for run in self._runs)
        self.graph.output(tuple(self._argument(*pair, {}) for pair in zip(*outputs, strict=True)))

    def _placeholder(self, name: str, ref: Any, low: Any, high: Any) -> fx.Node:
        node = self.graph.placeholder(name)
        node.target = node.name
        node.meta["val"] = self.batch.join(low, high) if isinstance(ref, Ref) else low
        if isinstance(ref, Ref):
            self._nodes[ref] = node
        return node

    def _call(self, low: Call, high: Call) -> None:
        if low.target is not high.target or len(low.args) != len(high.args) or list(low.kwargs) != list(high.kwargs):
            raise UnrecordableError(f"the code calls {low.target} at one batch and {high.target} at another")
        meta = dict(low.origin)
        if low.target in REGIONS:
            return self._region(low, meta)
        args = tuple([self._argument(*pair, meta) for pair in zip(low.args, high.args, strict=True)])
        kwargs = {name: self._argument(value, high.kwargs[name], meta) for name, value in low.kwargs.items()}
        name = low.target.overloadpacket.__name__
        node = self.graph.create_node("call_function", low.target, args, kwargs, name)
        node.meta = meta | {"val": self.batch.join(low.result, high.result)}
        self._results(node, low.refs)
        return None

    def _region(self, call: Call, meta: dict[str, Any]) -> None:
        args = tuple(self._regions[id(arg)] if isinstance(arg, Call) else arg for arg in call.args)
        node = self.graph.call_function(call.target, args)
        node.meta = meta | {"val": None}
        self._regions[id(call)] = node

    def _results(self, node: fx.Node, refs: Any) -> None:
        """Note which nodes give which tensors."""
        if isinstance(refs, Ref):
            self._nodes[refs] = node
        for place, ref in enumerate(refs if isinstance(refs, list) else ()):
            item = self.graph.call_function(operator.getitem, (node, place))
            item.meta = {**node.meta, "val": node.meta["val"][place]}
            self._results(item, ref)

    def _argument(self, low: Any, high: Any, meta: Mapping[str, Any]) -> Any:
        """Return what stands for an argument in the graph."""
        if isinstance(low, Ref):
            if low != high:
                raise UnrecordableError("an operand is another tensor at another batch")
            return self._nodes[low]
        if isinstance(low, list | tuple):
            if not isinstance(high, list | tuple) or len(low) != len(high):
                raise UnrecordableError(f"an argument is {low} at one batch and {high} at another")
            return [self._argument(*pair, meta) for pair in zip(low, high, strict=True)]
        if type(low) is int and type(high) is int and low != high:
            return self._multiple(self.batch.factor(low, high) or 0, meta)
        if low == high or low is high or (low != low and high != high):  # noqa: PLR0124 - not a number
            return low
        raise UnrecordableError(f"an argument is {low!r} at one batch and {high!r} at another")

    def _multiple(self, factor: int, meta: Mapping[str, Any]) -> fx.Node:
        """Return the node that computes so many times the batch."""
        if factor in self._multiples:
            return self._multiples[factor]
        if factor == 1:
            with self.graph.inserting_after(self._placeholders[-1]):
                node = self.graph.call_function(torch.ops.aten.sym_size.int, (self._row, 0))
        else:
            node = self.graph.call_function(operator.mul, (self._multiple(1, meta), factor))
        node.meta = {**meta, "val": self.batch.multiple(factor)}
        self._multiples[factor] = node
        return node

