"""Statistics of the masked original, computed from what is kept: nodes in place of one operator.

Of ``n`` elements a share ``r`` is kept, and every removed one is worth ``g``, zero as a rule. Then the masked original
has the mean ``m = r * mean(kept) + (1 - r) * g`` and the variance ``r * mean((kept - m)^2) + (1 - r) * (g - m)^2``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
COMPENSATED = "compensated"
"""Key in a node's ``meta``: it computes the masked original's statistic, so that nothing needs to stand in for it."""


@dataclass
class Workshop:
    """Puts nodes before a place in a graph.

    Attributes:
        place: the node before which they go.
    """

    place: fx.Node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new operator before the place."""
        with self.place.graph.inserting_before(self.place):
            node = self.place.graph.call_function(target, args, kwargs)
        node.meta[COMPENSATED] = True
        return node

    def mean(self, value: fx.Node, dims: list[int], share: float, gone: fx.Node | None) -> fx.Node:
        """The mean over all of which a share is kept, with dimensions of size one in place of ``dims``."""
        kept = self.call(aten.mul.Tensor, self.call(aten.mean.dim, value, dims, True), share)
        if gone is None:
            return kept
        return self.call(aten.add.Tensor, kept, self.call(aten.mul.Tensor, gone, 1 - share))

    def moments(
        self, value: fx.Node, dims: list[int], share: float, gone: fx.Node | None
    ) -> tuple[fx.Node, fx.Node, fx.Node]:
        """Mean, distance from it, and variance without a correction."""
        mean = self.mean(value, dims, share, gone)
        centred = self.call(aten.sub.Tensor, value, mean)
        apart = mean if gone is None else self.call(aten.sub.Tensor, gone, mean)
        variance = self.mean(self._square(centred), dims, share, self._square(apart))
        return mean, centred, variance

    def normalised(
        self, value: fx.Node, dims: list[int], share: float, gone: fx.Node | None, epsilon: float
    ) -> fx.Node:
        """Distance from the mean over the root of variance and ``epsilon``."""
        _, centred, variance = self.moments(value, dims, share, gone)
        return self._over_root(centred, variance, epsilon)

    def root_mean_square(
        self, value: fx.Node, dims: list[int], share: float, gone: fx.Node | None, epsilon: float
    ) -> fx.Node:
        """The value over the root of its mean square and ``epsilon``."""
        square = self.mean(self._square(value), dims, share, None if gone is None else self._square(gone))
        return self._over_root(value, square, epsilon)

    def affine(self, value: fx.Node, weight: fx.Node | None, bias: fx.Node | None) -> fx.Node:
        """``value * weight + bias``; either may be missing."""
        if weight is not None:
            value = self.call(aten.mul.Tensor, value, weight)
        return value if bias is None else self.call(aten.add.Tensor, value, bias)

    def widened(self, value: fx.Node, dtype: torch.dtype) -> fx.Node:
        """The value in the type in which normalisations compute: float32 for narrower ones."""
        return self.call(aten.to.dtype, value, torch.float32) if dtype in NARROW else value

    def narrowed(self, value: fx.Node, dtype: torch.dtype) -> fx.Node:
        """The value in its own type again."""
        return self.call(aten.to.dtype, value, dtype) if dtype in NARROW else value

    def _square(self, value: fx.Node) -> fx.Node:
        return self.call(aten.mul.Tensor, value, value)

    def _over_root(self, value: fx.Node, square: fx.Node, epsilon: float) -> fx.Node:
        return self.call(
            aten.mul.Tensor, value, self.call(aten.rsqrt.default, self.call(aten.add.Tensor, square, epsilon))
        )


NARROW = (torch.float16, torch.bfloat16)
