import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partition.problems import random_workload

from graphopt.partition.assignment import pipeline_seconds
from graphopt.partition.choosing import best_asynchronous, best_pipeline
from graphopt.partition.devices import equal_devices
from graphopt.partition.links import Link, LinkTable
from graphopt.partition.simulator import Machinery, simulate
from graphopt.partition.sketch import sketch
from graphopt.partition.workload import INPUT, Value, Workload

NO_LINK_TIME = LinkTable(Link(0.0, float("inf")))
STEPS = 80
RHYTHM = 12


def row(seconds: list[float], size: int) -> Workload:
    """Items one after the other; the last one's value goes to the sampling loop."""
    last = len(seconds) - 1
    values = [Value("sample", INPUT, size, (0,))]
    values += [Value(f"v{one}", one, size, () if one == last else (one + 1,), one == last) for one in range(last + 1)]
    return Workload({"default": tuple(seconds)}, tuple(values))


def period_of(drawn, links: LinkTable) -> float:
    """Time of a step on the slowest device: one that nobody waits for may fall behind the sampling loop."""
    spans = simulate(drawn.partition, drawn.seconds, STEPS, Machinery(links), orders=False).spans
    ends = {(span.device, span.step): span.end_seconds for span in spans}
    devices = {device for device, _ in ends}
    return max(ends[one, STEPS - 1] - ends[one, STEPS - 1 - RHYTHM] for one in devices) / RHYTHM


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=3, max_size=7),
    st.integers(2, 3),
    st.integers(0, 5),
    st.integers(1, 60),
)
def test_the_planned_period_of_late_values_is_the_simulated_one(seconds, count, latency, size) -> None:
    workload, links = row([float(one) for one in seconds], size), LinkTable(Link(float(latency), 10.0))
    devices = equal_devices(count)
    plan = best_asynchronous(workload, devices, links)
    drawn = sketch(workload, plan, devices, warm_up=3)
    assert period_of(drawn, links) == pytest.approx(plan.seconds)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 7), st.integers(2, 3))
def test_no_run_is_faster_than_planned(seed, items, count) -> None:
    workload, links = random_workload(seed, items), LinkTable(Link(0.0, random.Random(seed).choice([0.5, 2.0, 8.0])))
    devices = equal_devices(count)
    plan = best_asynchronous(workload, devices, links)
    assert period_of(sketch(workload, plan, devices, warm_up=3), links) >= plan.seconds * (1 - 1e-9)
    free = best_asynchronous(workload, devices, NO_LINK_TIME)
    drawn = sketch(workload, free, devices, warm_up=3)
    assert period_of(drawn, NO_LINK_TIME) >= free.seconds * (1 - 1e-9)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 7), st.integers(2, 3), st.integers(1, 4))
def test_pipelines_of_skips_and_micro_batches_keep_to_the_closed_form(seed, items, count, parts) -> None:
    workload = random_workload(seed, items, chain=True)
    devices = equal_devices(count)
    plan = best_pipeline(workload, devices, NO_LINK_TIME)
    drawn = sketch(workload, plan, devices, micro_batches=parts)
    stages = tuple(plan.loads[device].compute_seconds for device in plan.order)
    found = simulate(drawn.partition, drawn.seconds, 2, Machinery(NO_LINK_TIME))
    assert found.step_ends[0] == pytest.approx(pipeline_seconds(stages, parts))
    assert found.seconds == pytest.approx(2 * pipeline_seconds(stages, parts))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 7), st.integers(2, 3), st.integers(1, 4), st.booleans())
def test_bytes_are_those_of_the_plan(seed, items, count, parts, late) -> None:
    workload, devices = random_workload(seed, items), equal_devices(count)
    plan = (best_asynchronous if late else best_pipeline)(workload, devices, NO_LINK_TIME)
    drawn = sketch(workload, plan, devices, micro_batches=1 if late else parts, warm_up=1 if late else None)
    found = simulate(drawn.partition, drawn.seconds, 1, knows_steps=False)
    assert found.size_bytes == plan.size_bytes
    sent = [sum(size for (source, _), size in found.link_bytes.items() if source == device) for device in range(count)]
    assert sent == [load.sent_bytes for load in plan.loads]


def test_neighbouring_items_are_one_segment_and_a_device_may_come_again() -> None:
    workload = row([2.0, 3.0, 8.0, 4.0], 8)
    devices = equal_devices(2)
    plan = best_asynchronous(workload, devices, NO_LINK_TIME)
    assert plan.devices == (0, 0, 1, 0)
    drawn = sketch(workload, plan, devices, warm_up=1)
    assert [(one.id, one.inputs, one.outputs) for one in drawn.partition.phases["sync"].segments] == [
        ("0.0", ("sample",), ("v0", "v1")),
        ("1.0", ("v1",), ("v2",)),
        ("0.1", ("v2",), ("v3",)),
    ]
    steady = {one.id: one.inputs for one in drawn.partition.phases["steady"].segments}
    assert steady == {"0.0": ("sample", "v2_late_0"), "1.0": ("v1_late_1",)}
    assert drawn.seconds == {
        ("sync", "0.0"): 5.0,
        ("sync", "1.0"): 8.0,
        ("sync", "0.1"): 4.0,
        ("steady", "0.0"): 9.0,
        ("steady", "1.0"): 8.0,
    }
    assert simulate(drawn.partition, drawn.seconds, 2, Machinery(NO_LINK_TIME)).step_ends == (17.0, 26.0)
