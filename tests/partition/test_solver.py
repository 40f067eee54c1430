"""CP-SAT over every topological order: equal to dynamic programming on chains, to brute force elsewhere."""

from __future__ import annotations

import sys

import pytest
from partition.problems import LINK, best_by_hand, convex, random_devices, random_workload

from graphopt.errors import BudgetError, MissingExtraError
from graphopt.partition.choosing import best_pipeline
from graphopt.partition.devices import equal_devices
from graphopt.partition.links import Link, LinkTable
from graphopt.partition.pipeline import PipelineProblem
from graphopt.partition.solver import solve_pipeline
from graphopt.partition.workload import Value, Workload

pytest.importorskip("ortools")
LINKS = LinkTable(LINK)
KINDS = ("default", "other")


@pytest.mark.parametrize("seed", range(6))
def test_solver_agrees_with_dynamic_programming_on_chains(seed: int) -> None:
    workload = random_workload(seed, 12 + seed, chain=True)
    plan = best_pipeline(workload, equal_devices(3), LINKS)
    found = solve_pipeline(workload, equal_devices(3), LINK, plan, seconds=20.0)
    assert plan.certificate == "unique-order"
    assert found is not None
    assert found.is_optimal
    assert plan.seconds * (1 - 1e-5) <= found.bound <= plan.seconds


@pytest.mark.parametrize("seed", range(40))
def test_solver_finds_the_best_of_all_convex_divisions(seed: int) -> None:
    items, count = 5 + seed % 3, 2 + seed % 2
    workload, devices = random_workload(seed + 500, items, kinds=KINDS), random_devices(seed, count, KINDS)
    how = {"free_order": seed % 3 > 0, "overlap": seed % 4 == 0, "forward_hops": seed % 5 == 0}
    wanted = best_by_hand(workload, devices, convex(workload, count), **how)
    problem = PipelineProblem(workload, devices, LINKS, **how)
    if wanted is None:
        with pytest.raises(BudgetError):
            problem.solve(solver_seconds=20.0)
        return
    found = problem.solve(solver_seconds=20.0)
    assert found.seconds == pytest.approx(wanted[0], rel=1e-5)
    assert found.certificate in ("cp-sat optimal", "unique-order")


def test_solver_beats_the_given_order_where_another_is_better() -> None:
    # Two chains, interleaved: 0 -> 2, 1 -> 3. Only an order that finishes one chain first balances the devices.
    values = (Value("a", 0, 1, (2,)), Value("b", 1, 1, (3,)))
    workload = Workload({"default": (1.0, 4.0, 5.0, 2.0)}, values)
    links, devices = LinkTable(Link(0.0, 1e12)), equal_devices(2)
    assert best_pipeline(workload, devices, links).seconds == pytest.approx(7.0)
    found = best_pipeline(workload, devices, links, solver_seconds=10.0)
    assert found.seconds == pytest.approx(6.0)
    assert found.certificate == "cp-sat optimal"
    assert sorted(found.items_of(found.order[0])) in ([0, 2], [1, 3])


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    workload = Workload({"default": (1.0, 1.0, 1.0)})
    with pytest.raises(MissingExtraError, match="solver"):
        best_pipeline(workload, equal_devices(2), LINKS, solver_seconds=1.0)
