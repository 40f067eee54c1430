"""The tables, in Markdown, and the goals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.partition.sweep import SweepPoint
from partition_comparison.running import ASYNC, COPIES, SINGLE, Held, Run
from partition_comparison.splitting import BLOCKS, NODES, OURS, PROVED, TORCH, Split, summary

EFFICIENCY, ERROR = 0.85, 0.15
RAW, CEILING = 1.5, 1.7
"""A raw speed-up is asked for only where the machine itself gives two copies so much."""


def split_table(splits: Sequence[Split]) -> str:
    """Every model and number of devices: who makes the slowest stage how fast, with how many bytes."""
    head = ("model", "devices", "graphopt", "certificate", "found in ms", NODES, BLOCKS, TORCH)
    rows = []
    for model, devices in dict.fromkeys((one.model, one.devices) for one in splits):
        by_way = {one.way: one for one in splits if (one.model, one.devices) == (model, devices)}
        ours, proved = by_way[OURS], by_way.get(PROVED, by_way[OURS])
        certificate = proved.note if proved.speed_up == ours.speed_up else f"{ours.note}; CP-SAT {_gain(proved)}"
        others = (_gain(by_way[way]) for way in (NODES, BLOCKS, TORCH))
        rows.append((model, str(devices), _gain(ours), certificate, f"{1e3 * ours.planning_seconds:.0f}", *others))
    return _table(head, rows)


def split_summary(splits: Sequence[Split]) -> str:
    """Geometric means over all models and numbers of devices."""
    head = ("way", "speed-up, of graphopt's", "bytes, of graphopt's", "divisions", "none")
    counts = {way: [one for one in splits if one.way == way] for way in (NODES, BLOCKS, TORCH)}
    shares = summary(list(splits))
    rows = (
        (
            way,
            f"{shares[way][0]:.3f}",
            f"{shares[way][1]:.2f}",
            str(len(own)),
            str(sum(not one.speed_up for one in own)),
        )
        for way, own in counts.items()
        if own
    )
    return _table(head, rows)


def run_table(runs: Sequence[Run]) -> str:
    """Real runs of one model."""
    head = ("players", "step ms", "speed-up", "efficiency", "expected ms", "error", "bytes", "expected bytes", "equal")
    return _table(head, map(_run_cells, runs))


def memory_table(rows: Iterable[Held]) -> str:
    """Parameters by process."""
    head = ("model", "processes", "bytes of parameters by process", "most")
    cells = (
        (one.model, str(one.devices), _bytes(one.parameter_bytes), f"{max(one.parameter_bytes):,}") for one in rows
    )
    return _table(head, cells)


def sweep_table(points: Sequence[SweepPoint]) -> str:
    """Speed-ups by devices and link, efficiency in brackets."""
    links = list(dict.fromkeys(point.link.bytes_per_second for point in points))
    head = ("kind", "devices", *(f"{speed / 1e9:g} GB/s" for speed in links))
    rows = []
    for kind, devices in dict.fromkeys((point.kind, point.devices) for point in points):
        own = [point for point in points if (point.kind, point.devices) == (kind, devices)]
        rows.append((kind, str(devices), *(f"{point.speed_up:.2f} ({point.efficiency:.2f})" for point in own)))
    return _table(head, rows)


def goals(runs: Sequence[Run], splits: Sequence[Split], memory: Sequence[Held]) -> dict[str, bool]:
    """Lines that say what was to be reached, and whether it was."""
    lines = {}
    for run in runs:
        if run.way == ASYNC:
            lines[f"{run.model}: efficiency {run.efficiency:.2f} of two copies, wanted {EFFICIENCY}"] = (
                run.efficiency >= EFFICIENCY
            )
            alone = next(one for one in runs if (one.model, one.way) == (run.model, SINGLE))
            ceiling = 1 / alone.efficiency  # twice the time of one process over that of two copies
            text = f"{run.model}: {run.speed_up:.2f} times as fast, the machine gives two copies {ceiling:.2f}"
            lines[f"{text}, wanted {RAW}" if ceiling >= CEILING else f"{text}, skipped"] = (
                run.speed_up >= RAW or ceiling < CEILING
            )
        if run.error is not None and run.way != SINGLE:
            line = f"{run.model}, {run.way}: expected time {100 * run.error:+.0f} %, wanted within {100 * ERROR:.0f} %"
            lines[line] = abs(run.error) <= ERROR
    if runs:
        lines["bytes of all runs as expected on every edge"] = all(run.bytes_equal for run in runs if run.way != COPIES)
    slower = [one for one in splits if one.way in (NODES, BLOCKS) and one.speed_up and _loses(one, splits)]
    if splits:
        lines[f"slowest stage never slower than in an even split: {len(slower)} are"] = not slower
    for model in dict.fromkeys(one.model for one in memory):
        most = [max(one.parameter_bytes) for one in memory if one.model == model]
        lines[f"{model}: parameters of the fullest process fall with every process more"] = most == sorted(
            most, reverse=True
        )
    return lines


def _loses(even: Split, splits: Sequence[Split]) -> bool:
    ours = next(one for one in splits if (one.model, one.devices, one.way) == (even.model, even.devices, OURS))
    return (even.speed_up or 0) > (ours.speed_up or 0) * (1 + 1e-9)


def _gain(split: Split) -> str:
    if split.speed_up is None or split.size_bytes is None:
        return f"none: {split.note}"
    return f"{split.speed_up:.2f}×, {split.size_bytes / 1e3:,.0f} kB"


def _run_cells(run: Run) -> tuple[str, ...]:
    measured = (run.way, f"{1e3 * run.step_seconds:.1f}", f"{run.speed_up:.2f}", f"{run.efficiency:.2f}")
    if run.expected_seconds is None or run.error is None:
        return (*measured, "", "", f"{run.bytes:,}", "", "")
    expected = (f"{1e3 * run.expected_seconds:.1f}", f"{100 * run.error:+.1f} %")
    return (*measured, *expected, f"{run.bytes:,}", f"{run.bytes_expected:,}", "yes" if run.bytes_equal else "no")


def _bytes(sizes: Iterable[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
