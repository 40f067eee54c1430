"""Pipelines over every topological order, by constraint programming with CP-SAT (the extra ``solver``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from graphopt.errors import MissingExtraError
from graphopt.partition.assignment import Assignment
from graphopt.partition.devices import Device
from graphopt.partition.links import Link
from graphopt.partition.workload import INPUT, Value, Workload

GRAIN = 10_000_000
"""Units in which the time of the first plan is counted; a solver works on whole numbers."""


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        stages: stage of every item.
        order: device of every stage.
        bound: what no pipeline can be faster than, in seconds.
        is_optimal: whether the pipeline is as fast as any, up to rounding by `GRAIN`.
    """

    stages: tuple[int, ...]
    order: tuple[int, ...]
    bound: float
    is_optimal: bool


def solve_pipeline(
    workload: Workload,
    devices: Sequence[Device],
    link: Link,
    first: Assignment | None = None,
    *,
    seconds: float,
    free_order: bool = True,
    overlap: bool = False,
    forward_hops: bool = False,
) -> Solution | None:
    """Look for a faster pipeline among those of all topological orders.

    Args:
        workload: the items.
        devices: the devices, with their memory.
        link: link between any two of them.
        first: a pipeline to begin with, if one is known.
        seconds: time that the solver may take.
        free_order: whether any device may take any stage; else stage k is on device k.
        overlap: count the longer of computing and receiving instead of their sum.
        forward_hops: charge a value for every stage that it passes.

    Returns:
        The best that was found, the first where nothing was; None where there is neither.

    Raises:
        MissingExtraError: the extra ``solver`` is not installed.

    References:
        Tarnawski et al., Efficient Algorithms for Device Placement of DNN Graph Operators, NeurIPS 2020,
        arXiv 2006.16423, give an integer program of the same problem.
    """
    model = _Model(workload, devices, link, first, overlap, forward_hops)
    model.place_devices(free_order)
    model.limit_memory()
    model.bound_seconds()
    return model.solve(seconds)


class _Model:
    """Variables: ``beyond[u][k]``, item u is in stage k or a later one; ``sits[k][d]``, device d has stage k."""

    def __init__(
        self,
        workload: Workload,
        devices: Sequence[Device],
        link: Link,
        first: Assignment | None,
        overlap: bool,
        forward_hops: bool,
    ) -> None:
        try:
            from ortools.sat.python import cp_model
        except ImportError as error:
            raise MissingExtraError("solver") from error
        self.cp_model = cp_model
        self.model: Any = cp_model.CpModel()
        self.workload, self.devices, self.link, self.first = workload, devices, link, first
        self.overlap, self.forward_hops = overlap, forward_hops
        self.stages = range(len(devices))
        horizon = first.seconds if first else _all_seconds(workload, devices, link)
        self.grain = GRAIN / max(horizon, 1e-300)
        self.beyond = [self._chain(item) for item in range(workload.items)]
        for producer, reader in workload.edges:
            for stage in self.stages[1:]:
                self.model.add_implication(self.beyond[producer][stage], self.beyond[reader][stage])
        for stage in self.stages:
            self.model.add(sum(self._inside(item, stage) for item in range(workload.items)) >= 1)
        self.received = [[self._arrives(value, stage) for value in workload.values] for stage in self.stages]
        self.seconds: Any = self.model.new_int_var(0, 2 * GRAIN, "seconds")
        self.sits: list[list[Any]] = []

    def place_devices(self, free_order: bool) -> None:
        """Let every stage have one device, and every device one stage."""
        self.sits = [[self.model.new_bool_var("") for _ in self.devices] for _ in self.stages]
        for stage in self.stages:
            self.model.add_exactly_one(self.sits[stage])
            self.model.add_exactly_one(row[stage] for row in self.sits)
            if not free_order:
                self.model.add(self.sits[stage][stage] == 1)
            self._keep_twins_in_order(stage)
            if self.first:
                self.model.add_hint(self.sits[stage][self.first.order[stage]], 1)

    def limit_memory(self) -> None:
        """Keep parameters, receive buffers and activations of every stage within its device."""
        for stage in self.stages:
            limited = [number for number, device in enumerate(self.devices) if device.memory_bytes is not None]
            if limited:
                self._limit(stage, limited)

    def bound_seconds(self) -> None:
        """Let the objective be at least the time of every stage."""
        for stage in self.stages:
            receive = sum(
                round(self.link.seconds(value.size_bytes) * self.grain) * arrives
                for value, arrives in zip(self.workload.values, self.received[stage], strict=True)
            )
            shared = [(replica, self._uses(replica.items, stage)) for replica in self.workload.replicas]
            for number, device in enumerate(self.devices):
                times = self.workload.seconds_on(device) * self.grain
                compute = sum(round(time) * self._inside(item, stage) for item, time in enumerate(times))
                compute += sum(
                    round(self.workload.replica_seconds(replica, device) * self.grain) * used
                    for replica, used in shared
                )
                for part in (compute, receive) if self.overlap else (compute + receive,):
                    self.model.add(self.seconds >= part).only_enforce_if(self.sits[stage][number])
        self.model.minimize(self.seconds)

    def solve(self, seconds: float) -> Solution | None:
        """Run the solver from the first pipeline on."""
        for item, stage in enumerate(self.first.stages if self.first else ()):
            for place in self.stages[1:]:
                self.model.add_hint(self.beyond[item][place], int(place <= stage))
        solver: Any = self.cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = seconds
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        status = solver.solve(self.model)
        rounding = (self.workload.items + len(self.workload.values) + len(self.workload.replicas)) / self.grain
        bound = max(0.0, solver.best_objective_bound / self.grain - rounding)
        if status not in (self.cp_model.OPTIMAL, self.cp_model.FEASIBLE):
            known = self.first
            return None if known is None else Solution(known.stages, known.order, bound, is_optimal=False)
        stages = tuple(sum(int(solver.value(place)) for place in places[1:-1]) for places in self.beyond)
        order = tuple(next(n for n, sits in enumerate(row) if solver.value(sits)) for row in self.sits)
        return Solution(stages, order, bound, is_optimal=status == self.cp_model.OPTIMAL)

    def _chain(self, item: int) -> list[Any]:
        """Return an item's variables by stage: true up to its own stage, false from the next one on."""
        inner = [self.model.new_bool_var(f"{item}>={stage}") for stage in self.stages[1:]]
        for earlier, later in pairwise(inner):
            self.model.add_implication(later, earlier)
        return [1, *inner, 0]

    def _inside(self, item: int, stage: int) -> Any:
        return self.beyond[item][stage] - self.beyond[item][stage + 1]

    def _uses(self, items: Sequence[int], stage: int) -> Any:
        used = self.model.new_bool_var("")
        for item in items:
            self.model.add(used >= self._inside(item, stage))
        return used

    def _arrives(self, value: Value, stage: int) -> Any:
        """Return a variable that is true where a stage receives a value."""
        arrives = self.model.new_bool_var("")
        for item in value.consumers:
            read = self.beyond[item][stage] if self.forward_hops else self._inside(item, stage)
            if value.producer != INPUT:
                self.model.add(arrives >= read - self.beyond[value.producer][stage])
            elif stage > 0:
                self.model.add(arrives >= read)
        if value.returned and stage == 0 and value.producer != INPUT and len(self.stages) > 1:
            self.model.add(arrives >= self.beyond[value.producer][1])
        return arrives

    def _limit(self, stage: int, limited: Sequence[int]) -> None:
        held = sum(storage.size_bytes * self._uses(storage.items, stage) for storage in self.workload.storages)
        held += sum(
            2 * value.size_bytes * arrives
            for value, arrives in zip(self.workload.values, self.received[stage], strict=True)
        )
        for item, scratch in enumerate(self.workload.scratch):
            alive = sum(
                life.size_bytes * self._inside(life.first, stage)
                for life in self.workload.lives
                if life.first <= item <= life.last
            )
            for number in limited:
                limit = int(self.devices[number].memory_bytes or 0)
                condition = self.model.add(held + alive + int(scratch) <= limit)
                inside = self.model.new_bool_var("")
                self.model.add(inside >= self._inside(item, stage))
                condition.only_enforce_if(inside, self.sits[stage][number])

    def _keep_twins_in_order(self, stage: int) -> None:
        """Let equal devices sit in the order of their numbers: the others are mirror images."""
        for number, device in enumerate(self.devices[:-1]):
            if device == self.devices[number + 1]:
                earlier = sum(self.sits[place][number] for place in range(stage + 1))
                later = sum(self.sits[place][number + 1] for place in range(stage + 1))
                self.model.add(earlier >= later)


def _all_seconds(workload: Workload, devices: Sequence[Device], link: Link) -> float:
    """Time of everything on the slowest device with every message: no stage of any pipeline takes longer."""
    messages = [value.size_bytes for value in workload.values]
    received = link.seconds(sum(messages), len(messages))
    return max(workload.one_device_seconds(device) for device in devices) + received
