"""The table, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from end_to_end_comparison.contest import Row
from end_to_end_comparison.subjects import TITLES


def table(rows: Iterable[Row]) -> str:
    """Every system of every denoiser."""
    head = ("model", "dtype", "system", "ms a step", "speed-up", "over compiled", "claimed", "steps", "error", "warm s")
    ruler = ["---"] * 3 + ["---:"] * (len(head) - 3)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ruler, *map(_cells, rows)))


def notes(rows: Sequence[Row]) -> str:
    """What the fusing pass did, each line once."""
    lines = dict.fromkeys(f"* {row.system}: {'; '.join(row.notes)}" for row in rows if row.notes)
    return "\n".join(lines) + "\n" if lines else ""


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (f"{row.step_ms:.2f}", f"{row.speed_up:.2f}", f"{row.over_compiled:.2f}")
    last = (row.programs, f"{row.error:.1e}", f"{row.warm_up_seconds:.0f}")
    claimed = row.claimed if row.model in TITLES else ""
    return (TITLES.get(row.model, row.model), row.dtype, row.system, *numbers, claimed, *last)
