"""Blocks and stacks from the spans of a layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import fx

from graphopt.arguments import packet_of
from graphopt.regions.costing import Costing
from graphopt.regions.layout import Layout
from graphopt.regions.region import Block, Stack, Stream
from graphopt.regions.sample import SampleFlow
from graphopt.regions.streams import Boundary, Streams
from graphopt.regions.structure import module_of, structure_key

aten = torch.ops.aten


class Builder:
    """Makes blocks and stacks of chains of spans.

    Attributes:
        blocks: Every block, in the order of execution.
        stacks: Every chain of blocks, most multiply-accumulates first.
    """

    def __init__(self, flow: SampleFlow, costing: Costing, streams: Streams, layout: Layout) -> None:
        self.flow, self.costing = flow, costing
        chains = [streams.boundaries(chain) for chain in layout.chains]
        self.blocks: list[Block] = []
        drafts = [self._draft(boundaries) for boundaries in chains]
        drafts.sort(key=lambda stack: -stack.cost.macs)
        self.stacks = tuple(
            Stack(f"stack.{number}", draft.blocks, draft.boundaries, draft.cost, draft.streams)
            for number, draft in enumerate(drafts)
        )

    def _draft(self, boundaries: Sequence[Boundary]) -> Stack:
        first = len(self.blocks)
        for before, after in pairwise(boundaries):
            self.blocks.append(self._block(before, after))
        nodes = {self.flow.by_name[name] for block in self.blocks[first:] for name in block.nodes}
        reads = {operand for node in nodes for operand in self.flow.operands[node] if operand.op == "get_attr"}
        nodes |= {read for read in reads if nodes.issuperset(self.flow.users[read])}
        return Stack(
            id="",
            blocks=tuple(block.id for block in self.blocks[first:]),
            boundaries=tuple(tuple(node.name for node in _nodes(boundary)) for boundary in boundaries),
            cost=self.costing.cost(nodes),
            streams=tuple(tuple(self._stream(node, lane) for node, lane in boundary) for boundary in boundaries),
        )

    def _block(self, before: Boundary, after: Boundary) -> Block:
        lanes = {lane: node for node, lane in before}
        sources = [lanes.get(lane) for _, lane in after]
        pairs = zip(sources, _nodes(after), strict=True)
        bypassable = all(source is not None and self.flow.alike(source, node) for source, node in pairs)
        inputs = [node for node in sources if node is not None] if bypassable else _nodes(before)
        nodes = self.flow.dying(_nodes(after), set(_nodes(before)))
        operators = [node for node in nodes if node.op == "call_function"]
        return Block(
            id=f"block.{len(self.blocks)}",
            inputs=tuple(node.name for node in inputs),
            outputs=tuple(node.name for node in _nodes(after)),
            nodes=tuple(node.name for node in operators),
            module=module_of([*filter(self._tells, operators), *_nodes(after)]),
            key=structure_key(operators),
            cost=self.costing.cost(nodes),
            bypassable=bypassable,
        )

    def _tells(self, node: fx.Node) -> bool:
        """Tell whether a node says in which module it is: it depends on the sample, and has weights or contracts."""
        reads = any(operand.op == "get_attr" for operand in node.all_input_nodes)
        return self.flow.depends(node) and (reads or self.flow.macs.get(node, 0) > 0)

    def _stream(self, node: fx.Node, lane: int) -> Stream:
        parts = tuple(self._described(part, lane) for part in self._parts(node))
        described = self._described(node, lane)
        return Stream(described.name, described.shape, described.dtype, lane, parts)

    def _described(self, node: fx.Node, lane: int) -> Stream:
        return Stream(node.name, self.flow.shape(node), str(node.meta["val"].dtype), lane)

    def _parts(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield the slices of a value, where nobody reads anything else of it."""
        readers = self.flow.users[node]
        if readers and all(packet_of(reader) in (aten.slice, aten.split_with_sizes) for reader in readers):
            for reader in readers:
                yield from [reader] if packet_of(reader) is aten.slice else self.flow.users[reader]


def _nodes(boundary: Boundary) -> list[fx.Node]:
    return [node for node, _ in boundary]
