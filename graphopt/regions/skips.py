"""Long skips: concatenations of a deep value with an earlier one that it was computed from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from graphopt.arguments import packet_of
from graphopt.regions.sample import SampleFlow

aten = torch.ops.aten


@dataclass(frozen=True)
class LongSkip:
    """A concatenation of a deep value with a shallow one.

    Attributes:
        concat: The concatenation.
        main: Its operand from the deep path.
        skip: Its operand from the shallow path.
        root: The value that both come from: the skip, seen through operators that only pass it on.
        chain: Nodes from the root, not included, to the concatenation, not included.
    """

    concat: fx.Node
    main: fx.Node
    skip: fx.Node
    root: fx.Node
    chain: tuple[fx.Node, ...]


def long_skips(flow: SampleFlow) -> list[LongSkip]:
    """Return the long skips, the last of the program first.

    Two operands depend on the sample, and one of them, seen through operators that contract nothing, is what the other
    was computed from. Halves of one tensor, such as those of a rotary embedding, come from the same value and are none;
    streams side by side, such as image and text, do not come from each other.
    """
    found = (_long_skip(flow, node) for node in reversed(flow.dependent) if packet_of(node) is aten.cat)
    return [skip for skip in found if skip is not None]


def _long_skip(flow: SampleFlow, concat: fx.Node) -> LongSkip | None:
    operands = concat.args[0]
    if not isinstance(operands, list | tuple) or len(operands) != 2 or not all(map(flow.depends, operands)):
        return None
    left, right = concat.all_input_nodes[0], concat.all_input_nodes[-1]
    for main, skip in ((left, right), (right, left)):
        chain, deep = _passed_on(flow, skip, alone=True), _passed_on(flow, main)[-1]
        root = chain[-1]
        if root is not deep and flow.reaches(root, deep) and flow.computes(flow.between(root, deep)):
            return LongSkip(concat, main, skip, root, tuple(chain[:-1]))
    return None


def _passed_on(flow: SampleFlow, node: fx.Node, *, alone: bool = False) -> list[fx.Node]:
    """Return a value and those before it that only pass one dependent value on, the last one being its source.

    With `alone`, the walk ends at a value that somebody else reads too.
    """
    chain = [node]
    while not alone or len(flow.users[chain[-1]]) == 1:
        operands = [operand for operand in flow.data_operands(chain[-1]) if flow.depends(operand)]
        if len(operands) != 1 or flow.macs.get(chain[-1], 0) or chain[-1].op == "placeholder":
            break
        chain.append(operands[0])
    return chain
