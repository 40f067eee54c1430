"""Plain splits to compare with, workloads that make no sense, and the time of a batch in parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from partition.problems import LINK, random_workload

from graphopt.errors import PlanError
from graphopt.partition.assignment import pipeline_seconds
from graphopt.partition.choosing import best_pipeline, even_split
from graphopt.partition.devices import Device, equal_devices
from graphopt.partition.links import Link, LinkTable
from graphopt.partition.workload import Value, Workload

LINKS = LinkTable(LINK)


@given(st.integers(0, 99), st.integers(2, 12), st.integers(1, 5))
def test_an_even_split_has_as_many_items_everywhere_and_is_never_faster(seed: int, items: int, count: int) -> None:
    if count > items:
        return
    workload, devices = random_workload(seed, items), equal_devices(count)
    even = even_split(workload, devices, LINKS)
    counts = [even.devices.count(device) for device in range(count)]
    assert sum(counts) == items
    assert max(counts) - min(counts) <= 1
    assert best_pipeline(workload, devices, LINKS).seconds <= even.seconds * (1 + 1e-9)


def test_weights_say_what_is_to_be_even() -> None:
    workload = Workload({"default": (1.0,) * 6})
    assert even_split(workload, equal_devices(2), weights=(9, 1, 1, 1, 1, 5)).stages == (0, 1, 1, 1, 1, 1)
    blocks = even_split(workload, equal_devices(2), weights=(1, 0, 0, 1, 0, 0))
    assert blocks.stages == (0, 0, 0, 1, 1, 1)
    assert even_split(workload, equal_devices(3), weights=(0, 0, 0, 0, 0, 1)).stages == (0, 0, 0, 0, 1, 2)


def test_items_out_of_order_are_refused() -> None:
    with pytest.raises(PlanError, match="topological order"):
        Workload({"default": (1.0, 1.0)}, (Value("v", 1, 4, (0,)),))
    with pytest.raises(PlanError, match=r"times of \[1, 2\] items"):
        Workload({"one": (1.0,), "other": (1.0, 2.0)})
    with pytest.raises(PlanError, match="speed 0"):
        Device(speed=0.0)
    with pytest.raises(PlanError, match="-4 bytes"):
        Device(memory_bytes=-4)
    with pytest.raises(PlanError, match="0 devices"):
        equal_devices(0)


def test_micro_batches_approach_the_slowest_stage() -> None:
    assert pipeline_seconds((2.0, 1.0, 1.0)) == 4.0
    assert pipeline_seconds((2.0, 1.0, 1.0), 4) == pytest.approx((4.0 + 3 * 2.0) / 4)
    assert pipeline_seconds((2.0, 2.0), 1000) == pytest.approx(2.0, rel=2e-3)


def test_a_slow_device_gets_less_and_a_slow_link_is_avoided() -> None:
    values = tuple(Value(f"v{n}", n, 8, (n + 1,)) for n in range(7))
    workload = Workload({"default": (1.0,) * 8}, values)
    free = LinkTable(Link(0.0, 1e12))
    plan = best_pipeline(workload, (Device(), Device(speed=3.0)), free)
    assert [plan.devices.count(device) for device in (0, 1)] == [2, 6]
    slow = LinkTable(Link(0.0, 1e12), {(0, 1): Link(100.0, 1.0)})
    assert best_pipeline(workload, equal_devices(2), slow).order == (1, 0)
