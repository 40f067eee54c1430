"""Allocation: which units go so that a ratio or a cost is met. Plain numbers in, plain numbers out; no graphs."""

from graphopt.allocate.budget import Allocation, allocate
from graphopt.allocate.measured import Reading, Trial, meet_seconds
from graphopt.allocate.pools import SCOPES, Scope
from graphopt.allocate.ratio import cost_schedule, exact_ratio, ratio_schedule
from graphopt.allocate.units import AxisUnits

__all__ = [
    "SCOPES",
    "Allocation",
    "AxisUnits",
    "Reading",
    "Scope",
    "Trial",
    "allocate",
    "cost_schedule",
    "exact_ratio",
    "meet_seconds",
    "ratio_schedule",
]
