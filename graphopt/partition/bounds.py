"""What no plan can be faster than, and how far a plan is from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.partition.devices import Device
from graphopt.partition.workload import Workload

UNIQUE_ORDER, OPTIMAL = "unique-order", "cp-sat optimal"
"""Certificates of plans that nothing can beat: the items have one topological order only, or a solver proved it."""


def has_unique_order(workload: Workload) -> bool:
    """Tell whether the items have one topological order only.

    That is so where each item reads what the one before it computes: a path through all of them. Then stretches of this
    order are all the pipelines there are.
    """
    return all((item, item + 1) in workload.edges for item in range(workload.items - 1))


def least_seconds(workload: Workload, devices: Sequence[Device]) -> float:
    """Return a time that the slowest device cannot fall below, however the items are spread and however fast the links.

    It is the larger of the longest item on the device that is fastest at it, and of the load that devices would have if
    items could be divided: for any weights of the devices that sum to 1, the sum over items of the least weighted time.
    """
    times = np.stack([workload.seconds_on(device) for device in devices])
    totals = times.sum(axis=1)
    if not totals.all():
        return 0.0
    weights = (1 / totals) / (1 / totals).sum()
    shared = min(workload.one_device_seconds(device) for device in devices) if len(devices) == 1 else 0.0
    return float(max(times.min(axis=0).max(), (weights[:, None] * times).min(axis=0).sum(), shared))


def gap(seconds: float, bound: float) -> str:
    """Return the certificate of a plan of which a lower bound is known: how far above it the plan is at most."""
    share = 0.0 if seconds <= 0 else max(0.0, 1 - bound / seconds)
    return f"gap {100 * share:.1f}%"
