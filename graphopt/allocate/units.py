"""The units of one axis: their scores, what one of them weighs, and how many may go."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from graphopt.errors import PreconditionError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class AxisUnits:
    """Units of one axis, in indices of the original model.

    Attributes:
        id: Name of the axis.
        scores: Importance of each unit, shape ``(size,)``; the lowest go first. What stands at removed units is not
            read; infinities are allowed, NaN is not.
        weight: What one unit weighs beside those of other axes, such as the flat parameter indices it takes; above 0.
        step: Once units go, the kept count is a multiple of it; 1 leaves it free.
        min_kept: At least as many stay, and never less than one.
        max_removed: At most as many go, those already removed included; None sets no limit.
        class_key: Axes with equal keys are ranked together by the scope "isomorphic".
        ratio: Share of this axis to remove, whatever the scope and the budget say; None follows the budget.
        removed: Indices that earlier steps removed.

    Raises:
        PreconditionError: A field holds what cannot be allocated, such as a NaN score.
    """

    id: str
    scores: FloatArray
    weight: float = 1.0
    step: int = 1
    min_kept: int = 1
    max_removed: int | None = None
    class_key: str = ""
    ratio: float | Fraction | None = None
    removed: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float64))
        self._require(self.scores.ndim == 1 and self.scores.size > 0, "scores of shape (size,)", self.scores.shape)
        self._require(0 < self.weight < float("inf"), "a finite weight above 0", self.weight)
        self._require(self.step >= 1, "step of at least 1", self.step)
        self._require(self.min_kept >= 0, "min_kept of at least 0", self.min_kept)
        self._require(self.max_removed is None or self.max_removed >= 0, "max_removed of at least 0", self.max_removed)
        strays = sorted(index for index in self.removed if not 0 <= index < self.size)
        self._require(not strays, f"removed indices from 0 to {self.size - 1}", strays)
        self._require(self.available > 0, "at least one unit that is left", f"all {self.size} removed")
        nan = self.left[np.isnan(self.scores[self.left])].tolist()
        self._require(not nan, "scores that are numbers, so check the weights and gradients", f"NaN at units {nan[:8]}")

    def _require(self, holds: bool, wanted: str, found: object) -> None:
        if not holds:
            raise PreconditionError(f"axis {self.id}: found {found}; wanted {wanted}")

    @property
    def size(self) -> int:
        """Units of the original axis."""
        return int(self.scores.shape[0])

    @property
    def left(self) -> IntArray:
        """Indices that are still there, ascending, shape ``(available,)``."""
        there = np.ones(self.size, dtype=np.bool_)
        there[list(self.removed)] = False
        return np.flatnonzero(there).astype(np.int64)

    @property
    def available(self) -> int:
        """How many units are still there."""
        return self.size - len(self.removed)

    @property
    def lowest(self) -> int:
        """Smallest kept count that all limits allow; `available` where nothing may go."""
        most_removed = self.size if self.max_removed is None else self.max_removed
        wanted = max(1, self.min_kept, self.size - most_removed)
        return min(self.available, -(-wanted // self.step) * self.step)

    @property
    def limit(self) -> str:
        """What keeps the axis from going below `lowest`, in words."""
        causes = []
        if self.max_removed is not None and self.size - self.max_removed > 1:
            causes.append(f"max_removed={self.max_removed}")
        if self.min_kept > 1:
            causes.append(f"min_kept={self.min_kept}")
        if self.step > 1:
            causes.append(f"step={self.step}")
        cause = ", ".join(causes) or "one unit always stays"
        return f"{self.lowest} of {self.size} units stay ({cause})"
