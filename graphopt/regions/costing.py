"""What a set of nodes costs: work, parameters, seconds, and the bytes that cross its border."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from graphopt.regions.sample import SampleFlow


@dataclass(frozen=True)
class RegionCost:
    """Cost of the nodes of a region on the example inputs.

    Attributes:
        macs: Multiply-accumulates.
        parameters: Weights that nothing outside the region reads.
        seconds: Measured time of its operators, None where it was not measured.
        bytes_in: Bytes of the activations it reads from outside.
        bytes_out: Bytes of its values that are read outside.
    """

    macs: int
    parameters: int
    seconds: float | None
    bytes_in: int
    bytes_out: int


class Costing:
    """Adds up what nodes cost.

    Args:
        flow: The sample's flow.
        seconds: Measured seconds of every operator, None where nothing was measured.
    """

    def __init__(self, flow: SampleFlow, seconds: Mapping[fx.Node, float] | None) -> None:
        self.flow = flow
        self.seconds = seconds
        self._readers: defaultdict[Any, set[fx.Node]] = defaultdict(set)
        self._sizes: dict[Any, int] = {}
        self._parameter: dict[fx.Node, Any] = {}
        named = dict(flow.program.graph_module.named_parameters(remove_duplicate=False))
        for node in flow.nodes:
            if node.op == "get_attr" and str(node.target) in named:
                self._note(node, named[str(node.target)])

    def cost(self, nodes: Iterable[fx.Node]) -> RegionCost:
        """Return the cost of some nodes, reads of weights among them."""
        members = set(nodes)
        outside = {operand for node in members for operand in self.flow.operands[node]} - members
        read = {self.flow.owner[node] if self.flow.depends(node) else node for node in outside if node.op != "get_attr"}
        given = [node for node in members if any(user not in members for user in self.flow.users[node])]
        return RegionCost(
            macs=sum(self.flow.macs.get(node, 0) for node in members),
            parameters=self.parameters(members),
            seconds=self.measured(members),
            bytes_in=sum(map(self.flow.bytes_of, read)),
            bytes_out=sum(map(self.flow.bytes_of, given)),
        )

    def parameters(self, members: set[fx.Node]) -> int:
        """Return how many weights are read by some nodes only."""
        own = {self._parameter[node] for node in members if node in self._parameter}
        return sum(self._sizes[place] for place in own if self._readers[place] <= members)

    def measured(self, members: Iterable[fx.Node]) -> float | None:
        """Return the measured seconds of some nodes, None where nothing was measured."""
        if self.seconds is None:
            return None
        return sum(self.seconds.get(node, 0.0) for node in members)

    def _note(self, node: fx.Node, parameter: nn.Parameter) -> None:
        place = (parameter.untyped_storage()._cdata, parameter.storage_offset(), parameter.shape)
        self._parameter[node] = place
        self._sizes[place] = parameter.numel()
        self._readers[place].add(node)
