"""Memory that outputs lie in, while values are replaced by others."""

from __future__ import annotations

from torch import fx

from graphopt.aliasing import Aliases


class Returned:
    """Says which values may be replaced without an output that shares memory with an input, or with another output.

    Whoever calls a model may write to what it gives, and read it in another shape. Where the model made that anew it
    must stay so, laid out as it was.

    Args:
        aliases: memory of the values of a graph.
    """

    def __init__(self, aliases: Aliases) -> None:
        self._aliases = aliases
        self._sources: dict[fx.Node, fx.Node] = {}
        self._outputs = set(aliases.graph_module.graph.output_node().all_input_nodes)

    def replace(self, node: fx.Node, other: fx.Node) -> bool:
        """Note that readers of a value read another one, and tell whether they may; where not, nothing is noted."""
        source = self._made(other)
        returned = self._is_returned(node)
        if returned and (self._is_returned(source) or not self._aliases.is_inner(source) or _differ(node, other)):
            return False
        self._sources[node] = source
        if returned:
            self._outputs.add(source)
        return True

    def _made(self, node: fx.Node) -> fx.Node:
        """The value whose memory another lies in, after what was replaced."""
        return next((self._sources[one] for one in self._aliases.holders(node) if one in self._sources), node)

    def _is_returned(self, node: fx.Node) -> bool:
        return not self._outputs.isdisjoint(self._aliases.holders(node))


def _differ(node: fx.Node, other: fx.Node) -> bool:
    """Whether two values are laid out differently; symbolic strides are compared without a guard."""
    strides = [node.meta["val"].stride(), other.meta["val"].stride()]
    return str(strides[0]) != str(strides[1])
