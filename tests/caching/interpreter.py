"""A schedule played node by node on the whole graph: an oracle that cuts nothing out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.cuts import Cut
from graphopt.program import Program


class Interpreter(fx.Interpreter):
    """Computes every node of a program; those that a step reads are then replaced by what is kept of an earlier step.

    Args:
        program: the program.
        cuts: what may be read.
    """

    def __init__(self, program: Program, cuts: Sequence[Cut]) -> None:
        super().__init__(program.graph_module)
        self._cuts = {cut.value: cut for cut in cuts}
        self._kept: dict[str, Tensor] = {}
        self._reads: frozenset[str] = frozenset()
        self._known: Mapping[str, Tensor] = {}

    def step(self, reads: frozenset[str], *args: Any) -> Any:
        """Run a step that reads the values of these names and keeps anew what it computes of the others."""
        self._reads, self._known = reads, {}
        with torch.no_grad():
            return self.run(*args)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        cut = self._cuts.get(n.name)
        if cut is not None:
            base = self._known[cut.base] if cut.base is not None else torch.zeros(())
            if n.name in self._reads:
                kept = self._kept[n.name]
                value = kept if cut.base is None else base + kept
            else:
                self._kept[n.name] = value.clone() if cut.base is None else value - base
        self._known = {**self._known, n.name: value}
        return value
