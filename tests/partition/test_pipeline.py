"""The best pipeline against every cut and every order of the devices, and its certificates."""

from __future__ import annotations

import pytest
from partition.problems import LINK, best_by_hand, contiguous, random_devices, random_workload, stage_numbers

from graphopt.errors import BudgetError, PlanError
from graphopt.partition.choosing import best_pipeline
from graphopt.partition.devices import Device, equal_devices
from graphopt.partition.links import Link, LinkTable
from graphopt.partition.workload import Value, Workload

KINDS = ("default", "other")
LINKS = LinkTable(LINK)


@pytest.mark.parametrize("seed", range(200))
def test_best_pipeline_equals_brute_force(seed: int) -> None:
    items, count = 4 + seed % 5, 1 + seed % 4
    workload = random_workload(seed, items, kinds=KINDS)
    devices = random_devices(seed, count, KINDS)
    how = {"free_order": seed % 3 > 0, "overlap": seed % 5 == 0, "forward_hops": seed % 7 == 0}
    wanted = best_by_hand(workload, devices, contiguous(items, count), **how)
    if wanted is None:
        with pytest.raises(BudgetError):
            best_pipeline(workload, devices, LINKS, **how)
        return
    found = best_pipeline(workload, devices, LINKS, **how)
    assert (found.seconds, found.size_bytes) == pytest.approx(wanted, rel=1e-9)
    numbers = stage_numbers(workload, found.stages, found.order, devices, **how)
    assert [found.loads[device].peak_bytes for device in found.order] == [memory for _, _, memory in numbers]


def test_most_random_problems_have_a_pipeline_and_some_have_none() -> None:
    feasible = 0
    for seed in range(200):
        workload = random_workload(seed, 4 + seed % 5, kinds=KINDS)
        try:
            best_pipeline(workload, random_devices(seed, 1 + seed % 4, KINDS), LINKS, free_order=seed % 3 > 0)
            feasible += 1
        except BudgetError:
            pass
    assert 150 <= feasible < 200


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_memory_is_enough_and_a_byte_less_is_not(seed: int) -> None:
    workload, count = random_workload(seed, 7), 2 + seed % 2
    with pytest.raises(BudgetError) as refused:
        best_pipeline(workload, equal_devices(count, memory_bytes=1), LINKS)
    nearest = refused.value.nearest
    assert nearest is not None
    found = best_pipeline(workload, equal_devices(count, memory_bytes=nearest), LINKS)
    assert max(load.peak_bytes for load in found.loads) == nearest
    with pytest.raises(BudgetError, match=f"at least {nearest:,.0f} there"):
        best_pipeline(workload, equal_devices(count, memory_bytes=nearest - 1), LINKS)


@pytest.mark.parametrize("seed", range(20))
def test_unequal_links_give_a_gap_that_holds(seed: int) -> None:
    workload, devices = random_workload(seed, 6, chain=True), equal_devices(3)
    pairs = {(0, 1): Link(0.0, 9.0), (1, 2): Link(9.0, 0.5), (2, 0): Link(1.0, 20.0)}
    links = LinkTable(LINK, pairs)
    wanted = best_by_hand(workload, devices, contiguous(6, 3), links=links)
    found = best_pipeline(workload, devices, links)
    assert wanted is not None
    numbers = stage_numbers(workload, found.stages, found.order, devices, links=links)
    assert found.seconds == pytest.approx(max(seconds for seconds, _, _ in numbers))
    share = 0.0 if found.certificate == "unique-order" else float(found.certificate.split()[1][:-1]) / 100
    assert found.seconds * (1 - share) <= wanted[0] + 0.001 * found.seconds
    assert found.seconds >= wanted[0] - 1e-9


def test_a_chain_is_certified_and_a_fork_is_not() -> None:
    chain = random_workload(3, 9, chain=True)
    assert best_pipeline(chain, equal_devices(3), LINKS).certificate == "unique-order"
    fork = Workload(
        {"default": (1.0, 5.0, 4.0, 1.0)}, (Value("a", 0, 1, (1, 2)), Value("b", 1, 1, (3,)), Value("c", 2, 1, (3,)))
    )
    found = best_pipeline(fork, equal_devices(2), LinkTable(Link(0.0, 1e9)))
    assert found.seconds == pytest.approx(6.0)
    assert found.certificate == "gap 8.3%"  # 5.5 seconds a device at least


def test_ties_are_broken_by_bytes() -> None:
    values = (Value("wide", 0, 1000, (1,)), Value("narrow", 1, 1, (2,)), Value("last", 2, 10, (3,)))
    found = best_pipeline(
        Workload({"default": (1.0, 0.0, 0.0, 1.0)}, values), equal_devices(2), LinkTable(Link(0, 1e300))
    )
    assert found.stages == (0, 0, 1, 1)


def test_more_devices_than_items_and_too_many_unequal_ones_are_refused() -> None:
    workload = random_workload(0, 12)
    with pytest.raises(PlanError, match="found 13 devices for 12 items"):
        best_pipeline(workload, equal_devices(13))
    unequal = tuple(Device(speed=1.0 + number) for number in range(11))
    with pytest.raises(PlanError, match="8 unequal"):
        best_pipeline(workload, unequal)
    assert best_pipeline(workload, unequal, free_order=False).order == tuple(range(11))
    with pytest.raises(PlanError, match="kind 'gpu', wanted one of default"):
        best_pipeline(workload, (Device("gpu"),))
