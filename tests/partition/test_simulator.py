import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partition.networks import chain, guided, network
from partition.recurrence import Recurrence

from graphopt.errors import PlanError
from graphopt.partition.links import Link, LinkTable
from graphopt.partition.simulator import Machinery, simulate
from graphopt.stages import REPLAY, STEADY, SYNC, Delay, Edge, Partition, Phase, Segment

FREE = Link(0.0, float("inf"))
NO_COST = Machinery(LinkTable(FREE))
SEEDS, DEVICES, SEGMENTS = st.integers(0, 10**6), st.sampled_from((3, 2, 4, 1)), st.sampled_from((6, 9, 4, 2, 1))


def period(simulation, steps: int = 60) -> float:
    """Time of a step, from two steps so far apart that every rhythm fits in."""
    ends = simulation.step_ends
    return (ends[-1] - ends[-1 - steps]) / steps


# ---------------------------------------------------------------------- closed forms


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(1, 3),
)
def test_pipelines_of_micro_batches_take_fill_and_slowest_stage(stages, parts, latency, steps) -> None:
    partition, seconds = chain([float(one) for one in stages], parts)
    place = Machinery(LinkTable(Link(float(latency), float("inf"))))
    found = simulate(partition, seconds, steps, place, orders=False)
    slowest = max(stages) / parts
    filled = sum(stages) / parts + latency * (len(stages) if len(stages) > 1 else 0)
    assert found.step_ends == pytest.approx([(filled + (parts - 1) * slowest) * step for step in range(1, steps + 1)])


@given(st.lists(st.integers(1, 30), min_size=2, max_size=4), st.integers(0, 10))
def test_the_rhythm_of_late_values_is_the_longest_of_loads_and_cycle(stages, latency) -> None:
    partition, seconds = chain([float(one) for one in stages], late=True, warm_up=len(stages))
    place = Machinery(LinkTable(Link(float(latency), float("inf"))))
    found = simulate(partition, seconds, 140, place, orders=False, changing=("sample",))
    cycle = (sum(stages) + len(stages) * latency) / len(stages)  # once around in as many steps as there are devices
    assert period(found) == pytest.approx(max(*stages, cycle))


def test_a_device_that_reads_nothing_new_still_waits_for_its_order() -> None:
    partition, seconds = chain([1.0, 4.0], late=True, warm_up=2)
    place = Machinery(LinkTable(Link(1.0, float("inf"))))
    assert period(simulate(partition, seconds, 140, place, orders=False)) == pytest.approx(4.0)
    assert period(simulate(partition, seconds, 140, place)) == pytest.approx(1 + 4 + 1)


def test_parts_queue_at_a_slow_link() -> None:
    partition, seconds = chain([4.0, 4.0], parts=4, size=10)
    place = Machinery(LinkTable(FREE, {(0, 1): Link(0.5, 5.0)}))
    assert simulate(partition, seconds, 1, place, orders=False).seconds == pytest.approx(1 + 4 * 2 + 0.5 + 1)


def test_a_slow_link_sets_the_rhythm() -> None:
    partition, seconds = chain([1.0, 1.0], late=True, warm_up=2, size=100)
    links = LinkTable(FREE, {(0, 1): Link(0.0, 20.0)})
    assert period(simulate(partition, seconds, 140, Machinery(links), orders=False)) == pytest.approx(5.0)


def test_halves_on_two_devices_take_the_longer_one() -> None:
    partition, seconds = guided(3.0, 4.0, size=10)
    place = Machinery(LinkTable(Link(0.5, 20.0)))
    # To the other device 1 s, its half 4 s, and 1 s back.
    assert simulate(partition, seconds, 3, place, orders=False).step_ends == pytest.approx([6.0, 12.0, 18.0])
    assert simulate(partition, seconds, 3, place).step_ends == pytest.approx([6.0, 12.0, 18.0])  # orders go before


def test_shared_cores_slow_down_what_computes_at_once_and_nothing_else() -> None:
    both, seconds = guided(4.0, 4.0)
    slow = Machinery(LinkTable(FREE), slowdown=1.5)
    assert simulate(both, seconds, 2, slow).seconds == pytest.approx(12.0)
    uneven, seconds = guided(2.0, 4.0)
    assert simulate(uneven, seconds, 1, slow).seconds == pytest.approx(2 * 1.5 + 2)
    after_each_other, seconds = chain([4.0, 4.0])
    assert simulate(after_each_other, seconds, 2, slow).seconds == pytest.approx(16.0)


def test_faster_devices_and_the_sampling_loop_count() -> None:
    partition, seconds = chain([4.0, 6.0])
    place = Machinery(LinkTable(FREE), speeds=(2.0, 3.0))
    found = simulate(partition, seconds, 2, place, sampler_seconds=1.0)
    assert found.step_ends == pytest.approx([4.5, 9.0])
    assert (found.busy_seconds, found.idle_seconds) == (pytest.approx((5.0, 4.0)), pytest.approx((4.0, 5.0)))


def test_a_step_is_the_mean_of_those_behind_the_warm_up() -> None:
    partition, seconds = chain([1.0, 1.0], late=True, warm_up=3)
    found = simulate(partition, seconds, 9, NO_COST)
    assert found.step_ends[2] == pytest.approx(6.0)
    assert found.step_seconds == pytest.approx((found.seconds - 6.0) / 6) == pytest.approx(1.0)
    assert simulate(partition, seconds, 2, NO_COST).step_seconds == pytest.approx(2.0)
    assert simulate(partition, seconds, 0, NO_COST).seconds == 0


def test_a_step_that_replays_computes_nothing() -> None:
    partition, seconds = chain([1.0, 3.0])
    kept = Delay("kept", "v1", 0)
    phases = {**partition.phases, REPLAY: Phase((), (), ("kept",))}
    partition = Partition("async", 2, 0, (), phases, (kept,))
    found = simulate(
        partition, seconds, 4, NO_COST, phase_of=lambda step: (SYNC, REPLAY)[step % 2], sampler_seconds=0.5
    )
    assert found.step_ends == pytest.approx([4.5, 5.0, 9.5, 10.0])
    assert found.bytes_sent == {("v0", 0, 1): 16, ("v1", 1, 0): 16}


# ---------------------------------------------------------------------- any partition


@pytest.mark.parametrize("late", [False, True])
@settings(deadline=None)
@given(SEEDS, DEVICES, SEGMENTS, st.integers(1, 7))
def test_times_are_those_of_the_recurrence(late, seed, devices, segments, steps) -> None:
    made = network(random.Random(seed), devices, segments, late=late)
    found = simulate(made.partition, made.seconds, steps, Machinery(made.links, made.speeds), orders=False)
    assert found.step_ends == pytest.approx([Recurrence(made, steps).over(step) for step in range(steps)])


@pytest.mark.parametrize("late", [False, True])
@settings(deadline=None)
@given(SEEDS, DEVICES, SEGMENTS, st.integers(1, 7))
def test_bytes_are_those_of_the_edges(late, seed, devices, segments, steps) -> None:
    made = network(random.Random(seed), devices, segments, late=late)
    wanted: Counter = Counter()
    for step in range(steps):
        for edge in made.partition.phases[made.partition.phase_of(step)].edges:
            is_constant = edge.value == "text" and step > 0
            if step + edge.delay < steps and not is_constant:
                wanted[edge.value, edge.source, edge.target] += edge.size_bytes
    found = simulate(made.partition, made.seconds, steps, Machinery(made.links, made.speeds))
    assert found.bytes_sent == dict(wanted)
    assert sum(found.link_bytes.values()) == found.size_bytes == sum(wanted.values())


@pytest.mark.parametrize("late", [False, True])
@settings(deadline=None)
@given(SEEDS, DEVICES, SEGMENTS, st.floats(1.0, 2.0))
def test_no_device_and_no_link_does_two_things_at_once(late, seed, devices, segments, slowdown) -> None:
    made = network(random.Random(seed), devices, segments, late=late)
    found = simulate(made.partition, made.seconds, 5, Machinery(made.links, made.speeds, slowdown))
    for device in range(devices):
        _require_apart([(one.start_seconds, one.end_seconds) for one in found.spans if one.device == device])
    for source, target in {one.route[1:] for one in found.transfers}:
        latency = made.links.link(source, target).latency_seconds
        sent = [one for one in found.transfers if one.route[1:] == (source, target)]
        _require_apart([(one.start_seconds, one.end_seconds - latency) for one in sent])
    alone = {
        device: 5
        * sum(seconds for (phase, id_), seconds in made.seconds.items() if phase == SYNC and made.on(id_, device))
        for device in range(devices)
    }
    for device, busy in enumerate(found.busy_seconds):
        assert alone[device] / made.speeds[device] <= busy + 1e-9
        assert busy <= slowdown * alone[device] / made.speeds[device] + 1e-9


def _require_apart(stretches) -> None:
    assert all(before[1] <= after[0] + 1e-9 for before, after in pairwise(sorted(stretches)))


# ---------------------------------------------------------------------- memory


def test_peaks_hold_values_until_their_last_reader_and_two_buffers() -> None:
    partition, seconds = chain([1.0, 1.0], size=100)
    place = Machinery(LinkTable(Link(0.5, float("inf"))), held_bytes=(1000, 2000), scratch_bytes={(SYNC, "1.0"): 7})
    found = simulate(partition, seconds, 3, place, orders=False)
    # Each has one value of its own, which goes over into its copy on the way, and two buffers for that of the other.
    assert found.peak_bytes == (1000 + 300, 2000 + 307)
    assert simulate(partition, seconds, 0, place).peak_bytes == (1000, 2000)


def test_what_an_extrapolation_reads_is_kept_a_step_longer() -> None:
    plain, seconds = chain([1.0, 1.0], late=True, warm_up=3, size=100)
    both, _ = chain([1.0, 1.0], late=True, warm_up=3, size=100, extrapolate=0.5)
    peaks = [simulate(one, seconds, 9, NO_COST).peak_bytes[1] for one in (plain, both)]
    assert peaks[1] - peaks[0] == 100


def test_an_extrapolation_waits_for_the_latest_value_too() -> None:
    partition, seconds = chain([4.0, 1.0], late=True, warm_up=3, extrapolate=0.5)
    place = Machinery(LinkTable(Link(2.0, float("inf"))))
    assert period(simulate(partition, seconds, 140, place, orders=False)) == pytest.approx((4 + 2 + 1 + 2) / 2)


# ---------------------------------------------------------------------- what is refused


def test_a_missing_time_is_an_error() -> None:
    partition, seconds = chain([1.0, 1.0])
    with pytest.raises(PlanError, match=r"no time of the segment 1\.0 of the phase sync"):
        simulate(partition, {(SYNC, "0.0"): seconds[SYNC, "0.0"]}, 1)


def test_values_that_never_come_are_errors() -> None:
    lonely = Phase((Segment("0.0", 0, (), ("a",), ("a",)), Segment("1.0", 1, ("a",), ("b",), ("b",))), (), ("a",))
    with pytest.raises(PlanError, match="device 1 reads a in phase sync at step 0 and never gets it"):
        simulate(Partition("pipeline", 2, 0, (), {SYNC: lonely}), {(SYNC, "0.0"): 1.0, (SYNC, "1.0"): 1.0}, 1)
    early, seconds = chain([1.0, 1.0], late=True, warm_up=0)
    with pytest.raises(PlanError, match="more steps of warm-up"):
        simulate(early, seconds, 2)


def test_devices_that_wait_for_each_other_are_an_error() -> None:
    segments = (Segment("0.0", 0, ("b",), ("a",), ("a",)), Segment("1.0", 1, ("a",), ("b",), ("b",)))
    edges = tuple(Edge(name, source, 1 - source, (1,), "float32", (0,), 4) for name, source in (("a", 0), ("b", 1)))
    partition = Partition("pipeline", 2, 0, (), {SYNC: Phase(segments, edges, ("a",))})
    with pytest.raises(PlanError, match="device 0 waits at step 0 for b of step 0, which never comes"):
        simulate(partition, {(SYNC, "0.0"): 1.0, (SYNC, "1.0"): 1.0}, 1)


def test_speeds_and_phases_must_fit() -> None:
    partition, seconds = chain([1.0, 1.0])
    with pytest.raises(PlanError, match="found 1 speeds for 2 devices"):
        simulate(partition, seconds, 1, Machinery(speeds=(1.0,)))
    with pytest.raises(PlanError, match="wanted numbers above 0"):
        Machinery(slowdown=0.0)
    with pytest.raises(PlanError, match="found the phase 'steady' at step 0, wanted one of sync"):
        simulate(partition, seconds, 1, phase_of=lambda step: STEADY)
