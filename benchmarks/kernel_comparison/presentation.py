"""The tables, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kernel_comparison.contest import COPY, EAGER, INDUCTOR, KERNEL, Row

GOALS = {
    "cached_apply": 0.80,
    "stack_apply": 0.80,
    "taylor_add": 0.80,
    "relative_l1": 0.80,
    "split_group_norm": 0.65,
    "channel_statistics": 0.65,
}
"""Share of the speed of a copy that a kernel should reach."""

NOISE = 0.02
"""A kernel counts as slower than inductor's code from this share on."""

DIFFERENCES = """\
Where the count differs from the estimate of the plan:

* **split_group_norm**: 18 → 10 includes the two readings of both halves by the convolution and the shortcut behind it,
  4 on either side, which the kernel does not change: 14 → 6. Where the statistics of one half are kept, that half is
  not read for them.
* **taylor_add**: 14 and 19 begin at zeros (1) and multiply the stored value by one before adding it (5). The unfused
  graph starts at the stored value: 8 and 13.
* **relative_l1**: 3 leaves out that the fresh residual is written, for the step that stores it; the kernel always
  writes it: 4.
* **cached_apply** and **stack_apply** agree: gates, scales and shifts are the digits behind the point.
* **channel_statistics** had no estimate; its single operations work in float32, twice the bytes of half precision.
"""


def byte_table(rows: Iterable[Row]) -> str:
    """What single operations and kernels move, in bytes and in hidden tensors (halves where two are joined)."""
    head = ("model", "kernel", "shape", "tensor MB", "eager MB", "kernel MB", "eager", "kernel", "ratio", "estimate")
    return _table(head, map(_byte_cells, rows), left=3)


def operation_table(rows: Iterable[Row]) -> str:
    """Which operations were counted, in hidden tensors, for the first case of every kernel."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.case.kernel, row)
    return _table(("kernel", "operations"), ((name, _operations(row)) for name, row in first.items()), left=2)


def time_table(rows: Sequence[Row], copy_bandwidth: float) -> str:
    """What was measured.

    Args:
        rows: measured rows.
        copy_bandwidth: bytes a second of a large copy.
    """
    head = (
        "model",
        "kernel",
        "shape",
        "dtype",
        "eager µs",
        "inductor µs",
        "kernel µs",
        "copy µs",
        "kernel TB/s",
        "of copy",
        "of large copy",
        "over eager",
        "over inductor",
        "bandwidth",
        "inductor",
    )
    return _table(head, (_time_cells(row, copy_bandwidth) for row in rows), left=4)


def goals(rows: Sequence[Row]) -> dict[str, bool]:
    """Lines that say what was to be reached, and whether every row did."""
    lines = {}
    for kernel, goal in GOALS.items():
        own = [row for row in rows if row.case.kernel == kernel]
        if own:
            least = min(map(of_copy, own))
            lines[f"{kernel} at {goal:.0%} of copy everywhere: at least {least:.0%}"] = least >= goal
    slowest = min(rows, key=over_inductor)
    lines[f"never slower than inductor: at least {over_inductor(slowest):.2f} times as fast"] = _keeps_up(slowest)
    return lines


def of_copy(row: Row) -> float:
    """Speed of the kernel over that of a copy that moves as many bytes."""
    return row.seconds[COPY] / row.seconds[KERNEL]


def over_inductor(row: Row) -> float:
    """How many times faster than inductor's code the kernel is."""
    return row.seconds[INDUCTOR] / row.seconds[KERNEL]


def _keeps_up(row: Row) -> bool:
    return over_inductor(row) >= 1 - NOISE


def _byte_cells(row: Row) -> tuple[str, ...]:
    sizes = (f"{size / 1e6:.2f}" for size in (row.unit, row.before, row.after))
    estimate = "" if row.case.estimate is None else "{} → {}".format(*row.case.estimate)
    units = (f"{size / row.unit:.2f}" for size in (row.before, row.after))
    kernel = f"{row.case.kernel} ({row.refused})" if row.refused else row.case.kernel
    return (row.case.model, kernel, row.case.shape, *sizes, *units, f"{row.before / row.after:.2f}", estimate)


def _operations(row: Row) -> str:
    counted = [(name, size / row.unit) for name, size in row.operations if size > 0.1 * row.unit]
    return ", ".join(f"{name} {size:.0f}" for name, size in counted)


def _time_cells(row: Row, copy_bandwidth: float) -> tuple[str, ...]:
    seconds = row.seconds
    achieved = row.after / seconds[KERNEL]
    return (
        row.case.model,
        row.case.kernel,
        row.case.shape,
        str(row.dtype).removeprefix("torch."),
        *(f"{1e6 * seconds[name]:.1f}" for name in (EAGER, INDUCTOR, KERNEL, COPY)),
        f"{achieved / 1e12:.2f}",
        f"{of_copy(row):.0%}",
        f"{achieved / copy_bandwidth:.0%}",
        f"{seconds[EAGER] / seconds[KERNEL]:.2f}",
        f"{over_inductor(row):.2f}",
        _verdict(of_copy(row) >= GOALS[row.case.kernel]),
        _verdict(_keeps_up(row)),
    )


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    ruler = ["---"] * left + ["---:"] * (len(head) - left)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ruler, *rows))
