"""What a tool's whole prune of one model took."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TOOLS = ("graphopt", "torch-pruning")


@dataclass(frozen=True)
class Outcome:
    """CPU seconds of one tool on one model; None where there are none.

    Attributes:
        tool: One of ``TOOLS``.
        model: Library and name.
        trace: Capture (graphopt) or `build_dependency` (Torch-Pruning).
        groups: Graph and groups, alone.
        total: From the model to a pruned one that runs: trace, groups, scores, choice, slicing.
        spent: All that the process took, the limit where it was stopped.
        nodes: Nodes of the captured program; graphopt only.
        failure: Why there is no pruned model that runs.
    """

    tool: str
    model: str
    trace: float | None
    groups: float | None
    total: float | None
    spent: float
    nodes: int | None
    failure: str

    @classmethod
    def read(cls, tool: str, model: str, parts: Sequence[dict[str, Any]], ending: str, seconds: float) -> "Outcome":
        """Make an outcome of the lines that a worker printed and of how its process ended."""
        found: dict[str, Any] = {}
        for part in parts:
            found |= part
        failure = str(found.get("failure", "")) or ("" if "total" in found else ending)
        spent = float(found.get("spent", seconds))
        figures = {key: found.get(key) for key in ("trace", "groups", "total", "nodes")}
        return cls(tool=tool, model=model, spent=spent, failure=failure, **figures)

    def __str__(self) -> str:
        if self.failure:
            return f"{self.tool} fails after {self.spent:.2f} s ({self.failure[:70]})"
        return f"{self.tool} {self.total:.2f} s"


def quantile(numbers: Sequence[float], share: float) -> float:
    """The number that such a share of all is not above."""
    ranked = sorted(numbers)
    return ranked[min(len(ranked) - 1, max(0, round(share * len(ranked) + 0.5) - 1))] if ranked else float("nan")
