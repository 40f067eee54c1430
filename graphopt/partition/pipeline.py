"""The best pipeline on given devices and links, and how good it is known to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from graphopt.errors import BudgetError
from graphopt.partition.assignment import Assignment
from graphopt.partition.bounds import OPTIMAL, UNIQUE_ORDER, gap, has_unique_order, least_seconds
from graphopt.partition.devices import Device
from graphopt.partition.dynamic_program import SLACK, Cuts, Seats, fastest_cuts, least_maxima
from graphopt.partition.evaluation import pipeline_assignment
from graphopt.partition.links import Link, LinkTable
from graphopt.partition.solver import solve_pipeline
from graphopt.partition.stage_costs import StageCosts
from graphopt.partition.workload import Workload


@dataclass(frozen=True)
class PipelineProblem:
    """What a pipeline is to be found for.

    Attributes:
        workload: items in topological order.
        devices: the devices, with their memory.
        links: links between them.
        free_order: whether any device may take any stage; else stage k is on device k.
        overlap: count the longer of computing and receiving instead of their sum.
        forward_hops: charge a value for every stage that it passes.
    """

    workload: Workload
    devices: tuple[Device, ...]
    links: LinkTable
    free_order: bool = True
    overlap: bool = False
    forward_hops: bool = False

    @property
    def has_equal_links(self) -> bool:
        """Whether all links are alike, so that the cost of a stage does not hang on where the others are."""
        return self.links.is_uniform(len(self.devices))

    def solve(self, solver_seconds: float = 0.0) -> Assignment:
        """Return the best pipeline known, with its certificate.

        Args:
            solver_seconds: time that CP-SAT may take where dynamic programming proves nothing.

        Raises:
            BudgetError: no pipeline keeps within the memory.
        """
        costs = StageCosts(self.workload, self.overlap, self.forward_hops)
        count = len(self.devices)
        slowest = self._planned(costs, [self.links.slowest_into(device, count) for device in range(count)])
        if slowest is None:
            return self._unordered(costs, solver_seconds)
        if self.has_equal_links:
            return self._certified(self._assigned(*slowest), slowest[0].value, solver_seconds)
        fastest = self._planned(costs, [self.links.fastest_into(device, count) for device in range(count)])
        plans = [self._assigned(*plan) for plan in (slowest, fastest) if plan is not None]
        best = min(plans, key=lambda plan: (plan.seconds, plan.size_bytes))
        return self._certified(best, 0.0 if fastest is None else fastest[0].value, 0.0)

    def _planned(self, costs: StageCosts, into: Sequence[Link]) -> tuple[Cuts, Seats, list[int]] | None:
        """Cut for links that hang on the receiver only; None where nothing fits."""
        pairs = list(zip(self.devices, into, strict=True))
        alike = list(dict.fromkeys(pairs))
        kinds = [alike.index(pair) for pair in pairs]
        seats = Seats(tuple(kinds), self.free_order)
        cuts = fastest_cuts([costs.seconds(*pair) for pair in alike], costs.received_bytes, seats)
        return None if cuts is None else (cuts, seats, kinds)

    def _assigned(self, cuts: Cuts, seats: Seats, kinds: Sequence[int]) -> Assignment:
        left = list(range(len(kinds)))
        order = []
        for stage, kind in enumerate(cuts.kinds):
            device = next(device for device in left if kinds[device] == kind) if seats.free else stage
            left.remove(device)
            order.append(device)
        return self._pipeline(cuts.stages(self.workload.items), order)

    def _pipeline(self, stages: Sequence[int], order: Sequence[int]) -> Assignment:
        return pipeline_assignment(
            self.workload,
            stages,
            order,
            self.devices,
            self.links,
            overlap=self.overlap,
            forward_hops=self.forward_hops,
        )

    def _certified(self, plan: Assignment, ordered_bound: float, solver_seconds: float) -> Assignment:
        """Say how good a plan is, or find a better one.

        Args:
            plan: the best of its topological order, as far as links are alike.
            ordered_bound: what no pipeline of that order can be faster than.
            solver_seconds: time for CP-SAT.
        """
        bound = least_seconds(self.workload, self.devices)
        if has_unique_order(self.workload):
            if plan.seconds <= ordered_bound * (1 + SLACK):
                return replace(plan, certificate=UNIQUE_ORDER)
            return replace(plan, certificate=gap(plan.seconds, max(bound, ordered_bound)))
        if not solver_seconds or not self.has_equal_links:
            return replace(plan, certificate=gap(plan.seconds, bound))
        return self._solved(plan, solver_seconds) or plan

    def _solved(self, plan: Assignment | None, solver_seconds: float) -> Assignment | None:
        """Return the better one of a plan and what CP-SAT finds among all topological orders."""
        found = solve_pipeline(
            self.workload,
            self.devices,
            self.links.link(0, 1),
            plan,
            seconds=solver_seconds,
            free_order=self.free_order,
            overlap=self.overlap,
            forward_hops=self.forward_hops,
        )
        if found is None:
            return None
        better = self._pipeline(found.stages, found.order)
        best = plan if plan and plan.seconds <= better.seconds * (1 + SLACK) else better
        bound = max(least_seconds(self.workload, self.devices), found.bound)
        return replace(best, certificate=OPTIMAL if found.is_optimal else gap(best.seconds, bound))

    def _unordered(self, costs: StageCosts, solver_seconds: float) -> Assignment:
        """Look for a pipeline of another topological order where none of this one keeps within the memory.

        Raises:
            BudgetError: there is none, or the solver was not to be asked.
        """
        is_open = solver_seconds and self.has_equal_links and not has_unique_order(self.workload)
        found = self._solved(None, solver_seconds) if is_open else None
        return found or self._refuse(costs)

    def _refuse(self, costs: StageCosts) -> NoReturn:
        """Say which memory would do.

        Raises:
            BudgetError: always.
        """
        alike = list(dict.fromkeys(self.devices))
        seats = Seats(tuple(alike.index(device) for device in self.devices), self.free_order)
        share = float(least_maxima([costs.memory_share(device) for device in alike], seats)[seats.full][-1])
        smallest = min(device.memory_bytes for device in self.devices if device.memory_bytes is not None)
        nearest = math.ceil(smallest * share * (1 - 1e-12))  # a whole number that division made a little larger stays
        largest = np.diag(costs.memory_bytes, 1).max()
        raise BudgetError(
            f"found no division over {len(self.devices)} devices that keeps within {smallest:,.0f} bytes on the "
            f"smallest; wanted at least {nearest:,} there, {share:.3f} times as much as now, and so on the others; "
            "give more memory or more devices",
            nearest=float(nearest),
            limits=f"the largest part that cannot be divided takes {largest:,.0f} bytes",
        )
