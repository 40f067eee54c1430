"""The table and the goals, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from backend_comparison.contest import Row

HEAD = (
    "model",
    "indices zeroed",
    "parameters zero",
    "system",
    "compile s",
    "call ms",
    "over inductor",
    "error to float64",
    "guard us",
)
SPEED_GOAL, GUARD_GOAL, COMPILE_GOAL, DENSE_GOAL = 1.7, 0.01, 1.3, 0.98


def table(rows: Sequence[Row]) -> str:
    """All rows."""
    lines = [HEAD, ["---", *["---:"] * (len(HEAD) - 1)], *map(_cells, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def goals(rows: Sequence[Row]) -> dict[str, bool]:
    """Lines that say what was to be reached, and whether it was."""
    ours = [row for row in rows if row.system == "graphopt"]
    plain = {(row.model, row.share): row for row in rows if row.system == "inductor"}
    lines = {}
    for row in ours:
        other = plain[row.model, row.share]
        what = f"{row.model} at {row.share:.0%}" if row.share else f"{row.model} without zeros"
        if row.model == "resnet50" and row.share == 0.5:
            lines[f"{what}: {row.speed_up:.2f} times as fast as inductor, wanted {SPEED_GOAL}"] = (
                row.speed_up >= SPEED_GOAL
            )
        if row.share:
            share = 1e-3 * row.guard_microseconds / row.milliseconds
            lines[f"{what}: error {row.error:.2e}, inductor's own {other.error:.2e}"] = row.error <= other.error
            lines[f"{what}: guards take {share:.2%} of a call, wanted under {GUARD_GOAL:.0%}"] = share < GUARD_GOAL
        else:
            ratio = row.compile_seconds / other.compile_seconds
            lines[f"{what}: compiles in {ratio:.2f} times inductor's time, wanted {COMPILE_GOAL}"] = (
                ratio <= COMPILE_GOAL
            )
            lines[
                f"{what}: {row.speed_up:.3f} times as fast as inductor, wanted no slower than noise ({DENSE_GOAL})"
            ] = row.speed_up >= DENSE_GOAL
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    guard = f"{row.guard_microseconds:.1f}" if row.guard_microseconds else ""
    return (
        row.model,
        f"{row.share:.0%}",
        f"{row.zeros:.0%}",
        row.system,
        f"{row.compile_seconds:.1f}" if row.system != "eager" else "",
        f"{row.milliseconds:.1f}",
        f"{row.speed_up:.2f}",
        f"{row.error:.1e}",
        guard,
    )
