"""Ways to divide a program over devices, each judged by the same placed graph: its slowest stage and its bytes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from graphopt.errors import GraphoptError, MissingExtraError
from graphopt.partition.assignment import Assignment
from graphopt.partition.choosing import best_pipeline, even_split
from graphopt.partition.coarsening import Coarsening, coarsen
from graphopt.partition.costs import CostModel
from graphopt.partition.devices import equal_devices
from graphopt.partition.links import DEFAULT_LINK, Link, LinkTable
from graphopt.program import Program
from graphopt.regions import find_regions
from graphopt.rewrite.placing.segments import cut
from graphopt.rewrite.placing.staging import completed, stage
from graphopt.stages import SYNC
from partition_comparison.torch_splitter import torch_split

OURS, PROVED, NODES, BLOCKS, TORCH = "graphopt", "graphopt, CP-SAT", "equal nodes", "equal blocks", "torch"


@dataclass(frozen=True)
class Split:
    """One way to divide a model.

    Attributes:
        model: name of the model.
        devices: number of devices.
        way: who divided it.
        seconds: expected time of the slowest stage, computing and receiving; None where there is none.
        speed_up: time of one device over it.
        size_bytes: bytes of all messages.
        planning_seconds: time it took to find.
        note: certificate, or why there is none.
    """

    model: str
    devices: int
    way: str
    seconds: float | None
    speed_up: float | None
    size_bytes: int | None
    planning_seconds: float
    note: str


@dataclass(frozen=True)
class Table:
    """A model and what its nodes cost.

    Attributes:
        model: its name.
        program: the program.
        costs: seconds of its nodes.
        link: link between all devices.
        solver_seconds: time for CP-SAT; 0 leaves it out.
    """

    model: str
    program: Program
    costs: CostModel
    link: Link = DEFAULT_LINK
    solver_seconds: float = 0.0

    def splits(self, devices: int) -> Iterator[Split]:
        """Yield every way to divide it.

        Args:
            devices: number of devices.
        """
        coarse = coarsen(self.program, self.costs, devices)
        ways: dict[str, Callable[[], Assignment]] = {
            OURS: lambda: best_pipeline(coarse.workload, equal_devices(devices), LinkTable(self.link)),
            NODES: lambda: _even(coarse, devices, [len(names) for names in coarse.nodes]),
            BLOCKS: lambda: _even(coarse, devices, self._block_starts(coarse)),
        }
        if self.solver_seconds:
            ways[PROVED] = lambda: best_pipeline(
                coarse.workload, equal_devices(devices), LinkTable(self.link), solver_seconds=self.solver_seconds
            )
        for way, plan in ways.items():
            yield self._planned(way, devices, coarse, plan)
        yield self._of_torch(devices)

    def _planned(self, way: str, devices: int, coarse: Coarsening, plan: Callable[[], Assignment]) -> Split:
        begun = time.perf_counter()
        try:
            found = plan()
        except (GraphoptError, MissingExtraError) as error:
            return Split(self.model, devices, way, None, None, None, time.perf_counter() - begun, str(error))
        taken = time.perf_counter() - begun
        names = coarse.names_by_device(found)
        return self._judged(way, devices, names, taken, found.certificate)

    def _of_torch(self, devices: int) -> Split:
        begun = time.perf_counter()
        found = torch_split(self.program, devices)
        taken = time.perf_counter() - begun
        if found.names is None:
            return Split(self.model, devices, TORCH, None, None, None, taken, "no division that it can map to devices")
        used = sum(map(bool, found.names))
        return self._judged(TORCH, devices, found.names, taken, "" if used == devices else f"{used} devices used")

    def _judged(self, way: str, devices: int, names: tuple[tuple[str, ...], ...], taken: float, note: str) -> Split:
        """Cut the program so, and add up what every device computes and receives."""
        try:
            phase = cut({SYNC: stage(self.program, completed(self.program, names))}).phases[SYNC]
        except GraphoptError as error:
            return Split(self.model, devices, way, None, None, None, taken, str(error))
        seconds: defaultdict[int, float] = defaultdict(float)
        spent: dict[str, float] = {}  # of what any device computes, once: constants and sizes belong to none
        for segment in phase.segments:
            own = {name: self.costs.of(name.partition("_on_")[0]) for name in segment.nodes}
            seconds[segment.device] += sum(own.values())
            spent.update((name.partition("_on_")[0], cost) for name, cost in own.items())
        for edge in phase.edges:
            seconds[edge.target] += self.link.seconds(edge.size_bytes)
        slowest = max(seconds.values())
        return Split(self.model, devices, way, slowest, sum(spent.values()) / slowest, phase.size_bytes, taken, note)

    def _block_starts(self, coarse: Coarsening) -> list[int]:
        """1 for an item in which a block begins.

        Raises:
            GraphoptError: there are fewer blocks than can be divided.
        """
        first = {block.nodes[0] for block in find_regions(self.program).blocks if block.nodes}
        return [int(not first.isdisjoint(names)) for names in coarse.nodes]


def _even(coarse: Coarsening, devices: int, weights: list[int]) -> Assignment:
    if sum(weights) < devices:
        raise GraphoptError(f"{sum(weights)} blocks for {devices} devices")
    return even_split(coarse.workload, equal_devices(devices), weights=weights)


def summary(splits: list[Split]) -> Mapping[str, tuple[float, float]]:
    """By way the geometric mean of its speed-up as a share of ours, and of its bytes, where both have one."""
    ours = {(one.model, one.devices): one for one in splits if one.way == OURS}
    found: dict[str, tuple[float, float]] = {}
    for way in dict.fromkeys(one.way for one in splits):
        pairs = [
            (one, ours[one.model, one.devices])
            for one in splits
            if one.way == way and one.speed_up and ours[one.model, one.devices].speed_up
        ]
        ratios = [(one.speed_up / best.speed_up, (one.size_bytes or 1) / (best.size_bytes or 1)) for one, best in pairs]
        found[way] = _mean([ratio for ratio, _ in ratios]), _mean([ratio for _, ratio in ratios])
    return found


def _mean(ratios: list[float]) -> float:
    product = 1.0
    for ratio in ratios:
        product *= ratio ** (1 / len(ratios))
    return product
