import pytest
from partition.test_sketch import row

from graphopt.partition.links import Link
from graphopt.partition.sweep import sweep

FAST, SLOW = Link(0.0, float("inf")), Link(0.0, 2.0)


def test_pipelines_fill_and_late_values_do_not_wait() -> None:
    found = list(sweep(lambda count: row([1.0] * 12, 8), [1, 2, 4], [FAST]))
    speed_ups = {(point.kind, point.devices): point.speed_up for point in found}
    assert {key: round(value, 9) for key, value in speed_ups.items() if key[0] == "pipeline"} == {
        ("pipeline", 1): 1.0,
        ("pipeline", 2): round(12 / (6 * (4 + 1) / 4), 9),  # four parts through two stages
        ("pipeline", 4): round(12 / (3 * (8 + 3) / 8), 9),
    }
    assert [speed_ups["async", count] for count in (1, 2, 4)] == pytest.approx([1, 2, 4])
    assert [point.efficiency for point in found if point.kind == "async"] == pytest.approx([1, 1, 1])


def test_slow_links_and_few_items_set_bounds() -> None:
    fast, slow = sweep(lambda count: row([1.0] * 4, 8), [4, 5], [FAST, SLOW], ["async"])
    assert (fast.devices, slow.devices) == (4, 4)  # five devices have nothing to do
    # Told to begin, the last device computes for 1 s and sends 8 bytes, 2 a second.
    assert slow.seconds == pytest.approx(1.0 + 4.0)
    assert slow.speed_up == pytest.approx(0.8)
    assert fast.speed_up == pytest.approx(4.0)


def test_workloads_are_asked_for_anew() -> None:
    asked: list[int] = []

    def workload(count: int):
        asked.append(count)
        return row([1.0] * 8, 8)

    assert len(list(sweep(workload, [2, 3], [FAST, SLOW], ["pipeline"]))) == 4
    assert asked == [2, 3]
