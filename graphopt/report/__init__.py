"""What a user is shown: what could be pruned, what a pipeline did, what it gained; as data, and as tables."""

from graphopt.report.benchmark import Benchmark, Variant, benchmark
from graphopt.report.inspection import FrozenReason, GroupSummary, Inspection, inspect_program

__all__ = ["Benchmark", "FrozenReason", "GroupSummary", "Inspection", "Variant", "benchmark", "inspect_program"]
