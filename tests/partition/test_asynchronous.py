"""Free maps: against every map, against the pipeline they start from, and the sandwich of a U-Net."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from partition.problems import random_workload

from graphopt.errors import BudgetError
from graphopt.partition.choosing import asynchronous_candidates, best_asynchronous, best_pipeline
from graphopt.partition.devices import Device, equal_devices
from graphopt.partition.links import Link, LinkTable
from graphopt.partition.staleness import StaleProblem
from graphopt.partition.workload import INPUT, Value, Workload

FAST = LinkTable(Link(0.1, 100.0))
FREE = LinkTable(Link(0.0, 1e12))


def unet(levels: int, width: int = 100) -> Workload:
    """Items down and up again, each up reading its counterpart; the lowest cost most, so that no halves are even."""
    items = 2 * levels
    values = [Value("sample", INPUT, width, (0,))]
    for item in range(items):
        mirror = items - 1 - item
        consumers = {item + 1, mirror} if item < levels - 1 else {item + 1}
        values.append(
            Value(f"v{item}", item, width, tuple(sorted(c for c in consumers if c < items)), item == items - 1)
        )
    return Workload({"default": tuple([1.0] * (levels - 1) + [4.0, 4.0] + [1.0] * (levels - 1))}, tuple(values))


@pytest.mark.parametrize("seed", range(12))
def test_maps_are_near_the_best_of_all_and_never_worse_than_the_pipeline(seed: int) -> None:
    workload, count = random_workload(seed, 7, chain=True), 2
    devices = equal_devices(count) if seed % 2 else (Device(), Device(speed=2.0))
    staleness = {value.name: 1.0 for value in workload.values}
    problem = StaleProblem(workload, devices, FAST, staleness, weight=3.0)
    found = best_asynchronous(workload, devices, FAST, staleness=staleness, weight=3.0)
    pipeline = problem.assignment(best_pipeline(workload, devices, FAST).devices)
    every = [problem.assignment(owners) for owners in product(range(count), repeat=7) if len(set(owners)) == count]
    least = min(problem.cost(plan)[0] for plan in every if plan)
    assert pipeline is not None
    assert problem.cost(found) <= problem.cost(pipeline)
    assert least <= problem.cost(found)[0] <= 1.1 * least


@pytest.mark.parametrize("seed", range(6))
def test_bounds_of_maps_hold(seed: int) -> None:
    workload, devices = random_workload(seed, 6), equal_devices(3)
    problem = StaleProblem(workload, devices, FAST)
    found = best_asynchronous(workload, devices, FAST)
    least = min(plan.seconds for owners in product(range(3), repeat=6) if (plan := problem.assignment(owners)))
    share = float(found.certificate.removeprefix("gap ").removesuffix("%")) / 100
    assert found.seconds * (1 - share) <= least * 1.001


def test_a_sandwich_is_found_where_skips_are_dear() -> None:
    workload, devices = unet(5), equal_devices(2)
    found = best_asynchronous(
        workload, devices, FREE, staleness=dict.fromkeys([f"v{n}" for n in range(10)], 1.0), weight=1.0
    )
    assert found.devices[0] == found.devices[-1]
    assert found.seconds == pytest.approx(8.0)
    inner = [item for item, device in enumerate(found.devices) if device != found.devices[0]]
    assert inner == [4, 5]  # the lowest two cost as much as all others
    assert found.staleness == 2.0  # one value down, one back; every pipeline hands four skips over besides
    assert best_pipeline(workload, devices, FREE).size_bytes > found.size_bytes


def test_three_devices_get_a_sandwich_whose_middle_is_divided() -> None:
    workload = unet(6)
    found = best_asynchronous(workload, equal_devices(3), FREE)
    assert found.seconds <= best_pipeline(workload, equal_devices(3), FREE).seconds
    assert set(found.devices) == {0, 1, 2}
    assert found.seconds == pytest.approx(6.0)  # 18 seconds of items


def test_candidates_trade_seconds_for_staleness() -> None:
    workload = random_workload(4, 10, chain=True)
    staleness = {value.name: float(1 + value.size_bytes % 5) for value in workload.values}
    front = asynchronous_candidates(
        workload, equal_devices(2), FAST, staleness=staleness, weights=(0.0, 1.0, 5.0, 50.0)
    )
    assert len(front) > 1
    assert [plan.seconds for plan in front] == sorted(plan.seconds for plan in front)
    assert all(left.staleness > right.staleness for left, right in pairwise(front))


def test_memory_is_kept_or_refused() -> None:
    workload = random_workload(11, 8)
    free = best_asynchronous(workload, equal_devices(2), FAST)
    largest = max(load.peak_bytes for load in free.loads)
    kept = best_asynchronous(workload, equal_devices(2, memory_bytes=largest), FAST)
    assert max(load.peak_bytes for load in kept.loads) <= largest
    with pytest.raises(BudgetError, match="no division over 2 devices"):
        best_asynchronous(workload, equal_devices(2, memory_bytes=5), FAST)
