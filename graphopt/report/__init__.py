"""What a user is shown: what could be pruned, what a pipeline did, what it gained; as data, and as tables."""

from graphopt.report.benchmark import Benchmark, benchmark
from graphopt.report.inspection import FrozenReason, GroupSummary, Inspection, inspect_program
from graphopt.report.schedule_benchmark import ScheduleBenchmark, benchmark_schedule
from graphopt.report.variant import Variant

__all__ = [
    "Benchmark",
    "FrozenReason",
    "GroupSummary",
    "Inspection",
    "ScheduleBenchmark",
    "Variant",
    "benchmark",
    "benchmark_schedule",
    "inspect_program",
]
