"""What is asked about one operator: how it is computed when some of its operands are spread over parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from torch import Tensor, fx

from graphopt.arguments import arguments_of
from graphopt.dependency.ties import shape_of
from graphopt.rewrite.sharding.layout import Layout, Recipe
from graphopt.rewrite.sharding.transfer import Transfer
from graphopt.values import value_of


@dataclass(frozen=True)
class DualScope:
    """Attention along the split axis that sees a neighbourhood and a few indices of the whole, not everything.

    Attributes:
        local: indices of each neighbour that a part sees beside its own.
        total: indices strided evenly over the whole axis that every part sees.

    References:
        Tan et al., Video-Infinity: Distributed Long Video Generation, arXiv 2406.16260. There every index sees its own
        neighbourhood and absent neighbours are zeros that take part in the softmax; here a part sees one set of keys
        and absent ones are left out, so that with ``local`` at the length of the axis it is the model itself.
    """

    local: int
    total: int


@dataclass(frozen=True)
class Question:
    """An operator with operands that are spread.

    Attributes:
        node: the operator.
        layouts: how operands are spread; those left out are whole.
        parts: number of parts.
        weights: values computed from parameters and constants alone.
        scope: what attention along the axis sees; None for everything.
        displaced: whether what is read of other parts may be a step old.
    """

    node: fx.Node
    layouts: Mapping[fx.Node, Layout]
    parts: int
    weights: frozenset[fx.Node]
    scope: DualScope | None = None
    displaced: bool = False

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The arguments by the names of the operator's schema."""
        return arguments_of(self.node)

    def layout(self, name: str) -> Layout | None:
        """How the operand of this name is spread."""
        return self.layouts.get(self.arguments[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the operand of this name on the example inputs."""
        shape: tuple[int, ...] = shape_of(value_of(self.arguments[name]))
        return shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the result on the example inputs."""
        shape: tuple[int, ...] = shape_of(value_of(self.node))
        return shape

    def by_rule(self) -> Recipe:
        """What the operator's coupling rule says.

        Raises:
            NotSplitError: it does not go index by index along the axis.
        """
        return Transfer(self.node, self.layouts, self.weights).recipe()


Answer: TypeAlias = Callable[[Question], Recipe]
"""Gives the recipe of one kind of operator; raises NotSplitError where it is to be computed whole."""


def is_tensor(node: object) -> bool:
    """Tell whether something is a node that holds a tensor."""
    return isinstance(node, fx.Node) and isinstance(value_of(node), Tensor)
