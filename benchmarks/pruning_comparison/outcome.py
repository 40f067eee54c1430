"""What one tool did on one architecture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TOOLS = ("graphopt", "torch-pruning")
WRONG = 1e-3
"""Error from which a pruned model that runs computes something else than the masked original."""


@dataclass(frozen=True)
class Outcome:
    """Figures of one tool on one architecture; None where there is none.

    Attributes:
        tool: One of ``TOOLS``.
        library: Library of the zoo.
        name: Architecture.
        parameters: Number of parameters of the model.
        kept: Share of the parameters outside embedding tables after pruning.
        error: How far the pruned model is from the masked original; see the referee.
        effect: How far the masked original is from the original.
        trace_seconds: CPU seconds of capture (graphopt) or of ``build_dependency`` (Torch-Pruning).
        analysis_seconds: CPU seconds to the groups: without capture (graphopt), with tracing (Torch-Pruning).
        peak_bytes: Highest resident memory of capture or tracing and analysis over what was resident before.
        groups: Number of groups.
        failure: Why there is no pruned model.
    """

    tool: str
    library: str
    name: str
    parameters: int | None
    kept: float | None
    error: float | None
    effect: float | None
    trace_seconds: float | None
    analysis_seconds: float | None
    peak_bytes: int | None
    groups: int | None
    failure: str

    @classmethod
    def read(cls, tool: str, library: str, name: str, parts: Sequence[dict[str, Any]], ending: str) -> "Outcome":
        """Make an outcome of what a worker printed and how its process ended."""
        found = {part["part"]: part for part in parts}
        analysis, quality = found.get("analysis", {}), found.get("quality", {"failure": ending})
        failure = quality.get("failure") or quality.get("reason") or ""
        seconds = {key: analysis.get(key) for key in ("trace_seconds", "analysis_seconds")}
        rest = {key: analysis.get(key) for key in ("parameters", "peak_bytes", "groups")}
        shares = {key: quality.get(key) for key in ("kept", "error", "effect")}
        return cls(tool=tool, library=library, name=name, failure=failure, **shares, **seconds, **rest)

    @property
    def verdict(self) -> str:
        """``works``, ``wrong`` (runs and computes something else), or ``fails``."""
        if self.failure or self.error is None:
            return "fails"
        return "works" if self.error <= WRONG and (self.effect or 0) > 0 else "wrong"

    @property
    def analysis_is_cheap(self) -> bool | None:
        """Whether the analysis took less time than the capture; None where it is not told apart or failed."""
        if self.tool != "graphopt" or self.trace_seconds is None or self.analysis_seconds is None:
            return None
        return self.analysis_seconds < self.trace_seconds

    def __str__(self) -> str:
        if self.verdict == "fails":
            return f"{self.tool} fails ({self.failure[:90]})"
        return f"{self.tool} {self.verdict}, error {self.error:.1e}"
