"""Splits of a model's modules over devices, as even as their multiply-accumulates allow."""

import itertools
from collections.abc import Sequence

from rewrite.placing.components import assign_modules

from graphopt.cost import cost
from graphopt.program import Program

Components = list[list[str]]


class Splitter:
    """Finds splits of a model's modules.

    Args:
        program: Captured from the model.
        modules: Names of the modules in the order in which they are computed.
    """

    def __init__(self, program: Program, modules: Sequence[str]) -> None:
        self._program = program
        self._modules = list(modules)
        self._macs = {node.node.name: node.macs for node in cost(program).nodes}
        alone = assign_modules(program, [[name] for name in modules])
        self._loads = [self._load(names) for names in alone]

    def contiguous(self, devices: int) -> Components:
        """Return a cut into parts of which the largest is as small as can be.

        Args:
            devices: Number of parts.
        """
        inner = itertools.combinations(range(1, len(self._modules)), devices - 1)
        cuts = [list(itertools.pairwise((0, *bounds, len(self._modules)))) for bounds in inner]
        best = min(cuts, key=lambda cut: max(sum(self._loads[start:end]) for start, end in cut))
        return [self._modules[start:end] for start, end in best]

    def sandwich(self) -> Components:
        """Return the middle, and what is before and behind it, which are as many modules but for one.

        Skips from the first modules to the last ones then stay on one device.
        """
        count = len(self._modules)
        pairs = [(first, last) for first, last in itertools.combinations(range(1, count), 2) if count - last >= first]
        pairs = [(first, last) for first, last in pairs if count - last - first <= 1]
        total = sum(self._loads)
        first, last = min(pairs, key=lambda pair: abs(2 * sum(self._loads[slice(*pair)]) - total))
        return [self._modules[first:last], [*self._modules[:first], *self._modules[last:]]]

    def share(self, components: Components) -> float:
        """Return the multiply-accumulates of the device that has most of them, over those of the program.

        Args:
            components: Names of modules by device.
        """
        loads = [self._load(names) for names in assign_modules(self._program, components)]
        return max(loads) / sum(self._macs.values())

    def _load(self, names: Sequence[str]) -> int:
        return sum(self._macs.get(name, 0) for name in names)
