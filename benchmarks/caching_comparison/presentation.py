"""The tables, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from caching_comparison.deployment import Deployment
from caching_comparison.figures import BASELINE, EAGER, ORIGINAL, Row, Size

MEMORY_GOAL = 0.1


def case_table(case: Sequence[Row]) -> str:
    """All systems of one case."""
    head = (
        "system",
        "full step ms",
        "cached step ms",
        "full steps",
        "generation s",
        "speed-up",
        "over own full",
        "of ideal",
        "over original",
        "cache bytes",
        "steps equal",
        "error",
    )
    return f"### `{case[0].passes}`\n\n" + _table(head, map(_cells, case))


def size_table(sizes: Iterable[Size]) -> str:
    """All programs."""
    head = ("passes", "program", "nodes", "parameters", "MACs")
    cells = (
        (f"`{one.passes}`", one.program, f"{one.nodes:,}", f"{one.parameters:,}", f"{one.macs:,}") for one in sizes
    )
    return _table(head, cells)


def deployment_table(deployments: Iterable[Deployment]) -> str:
    """What compiles and what exports."""
    head = ("system", "torch.compile(fullgraph=True)", "torch.export")
    return _table(head, ((one.system, one.compile, one.export) for one in deployments))


def goals(rows: Sequence[Row]) -> dict[str, bool]:
    """Lines that say what was to be reached, and whether it was."""
    ours = [row for row in rows if row.system == EAGER]
    slowest = min(ours, key=lambda row: row.over_original)
    equal = [row for row in rows if row.system == ORIGINAL and row.error == 0]
    lines = {
        f"as fast as the original everywhere: at least {slowest.over_original:.3f} times, in `{slowest.passes}`": (
            slowest.over_original >= 1
        ),
        f"equal to the original in all steps: {len(equal)} of {len(ours)} cases": len(equal) == len(ours),
    }
    shares = {
        row.passes: row.held_bytes / _held(rows, row.passes) for row in ours if row.passes.startswith("deepcache")
    }
    if shares:
        most = max(shares, key=lambda text: shares[text])
        line = f"under a tenth of the original's cache on the U-Net: at most {shares[most]:.1%}, in `{most}`"
        lines[line] = shares[most] < MEMORY_GOAL
    return lines


def _held(rows: Sequence[Row], passes: str) -> int:
    return next(row.held_bytes for row in rows if row.passes == passes and row.system == ORIGINAL)


def _cells(row: Row) -> tuple[str, ...]:
    cached = "" if row.cached_seconds is None else f"{1e3 * row.cached_seconds:.1f}"
    times = (f"{1e3 * row.full_seconds:.1f}", cached, str(row.full_steps), f"{row.generation_seconds:.3f}")
    if row.system == BASELINE:
        return (row.system, *times, *("",) * 7)
    ratios = (f"{row.speed_up:.2f}", f"{row.own_speed_up:.2f}", f"{row.of_ideal:.2f}", f"{row.over_original:.2f}")
    return (row.system, *times, *ratios, f"{row.held_bytes:,}", str(row.steps_equal), f"{row.error:.1e}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
