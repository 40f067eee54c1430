"""What could be pruned as tables for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.report.figures import figure, milliseconds, share, short
from graphopt.report.inspection import FrozenReason, GroupSummary, Inspection
from graphopt.report.tables import EXAMPLES, labelled, make_table, title_of
from graphopt.report.widths import TARGETS, OddWidth

_PACKAGES = re.compile(r"\S*[/\\]site-packages[/\\]")
"""Where installed packages lie, which every path into one of them begins with."""


def inspection_tables(inspection: Inspection) -> Iterator[RenderableType]:
    """Yield what could be pruned, ranked, which widths are odd, what is frozen, and the totals."""
    yield _groups_table(inspection)
    timings = [group.timing for group in inspection.groups if group.timing is not None]
    if timings:
        yield from _about_times(inspection, sum(timing.untimed for timing in timings))
    if inspection.odd_widths:
        yield _widths_table(inspection.odd_widths)
    yield _frozen_table(inspection.frozen)
    figures = (f"{title_of(name)} {figure(name, value)}" for name, value in inspection.totals.items())
    yield Text(", ".join(figures))
    yield from labelled("note", inspection.notes)


def _groups_table(inspection: Inspection) -> Table:
    shown = len(inspection.groups)
    first = f", the first {shown}" if shown < inspection.count else ""
    title = f"{inspection.model}: {inspection.count} coupling groups by {inspection.by} per unit{first}"
    is_timed = any(group.timing is not None for group in inspection.groups)
    units = ("parameters/unit", "MACs/unit", *(("ms/unit",) if is_timed else ()))
    halves = ("half: parameters", "half: MACs", *(("half: time", "noise") if is_timed else ()))
    table = make_table(
        title, ("group", "kind"), ("size", "members", *units, *halves, f"round to ({'/'.join(TARGETS)})")
    )
    table.add_column("marks")
    for group in inspection.groups:
        table.add_row(*_row(group, inspection))
    return table


def _row(group: GroupSummary, inspection: Inspection) -> Iterator[str | Text]:
    total = inspection.totals
    yield from (Text(group.id), group.kind, str(group.size), str(group.members))
    yield from (short(group.parameters_per_unit), short(group.macs_per_unit))
    if group.seconds_per_unit is not None:
        yield short(1000 * group.seconds_per_unit)
    yield _part(group.parameters_of_half, total["parameters"])
    yield _part(group.macs_of_half, total["macs"])
    if group.timing is not None:
        saved = group.timing.seconds_saved
        yield f"{milliseconds(saved)} ({share(saved, total['seconds'])})"
        yield f"± {milliseconds(group.timing.noise_seconds)}"
    yield "/".join(str(group.round_to[target]) for target in TARGETS)
    yield ", ".join(group.marks)


def _about_times(inspection: Inspection, untimed: int) -> Iterator[Text]:
    total, noise = (milliseconds(inspection.totals[name]) for name in ("seconds", "noise_seconds"))
    yield Text(
        f"times: operators one by one on random tensors, whole and with half of the units; shares are of the whole "
        f"program's {total} ± {noise}; ± is half the distance between quartiles"
    )
    if untimed:
        yield Text(f"note: {untimed} operators do not run on random tensors and are not in the times")


def _widths_table(widths: Sequence[OddWidth]) -> Table:
    table = make_table("odd widths", ("for",), ("width", "multiple of", "round to"))
    table.add_column("where", overflow="fold")
    table.add_column("why", overflow="fold")
    for width in widths:
        place, why = Text(_some(width.places)), Text(f"{width.dtype}: {width.reason}")
        rounded = f"{width.down} or {width.up}"
        table.add_row(TARGETS[width.target], str(width.size), str(width.multiple), rounded, place, why)
    return table


def _frozen_table(entries: Sequence[FrozenReason]) -> Table:
    table = make_table("frozen", ("reason",), ("dimensions",))
    table.add_column("for example", overflow="fold")
    for entry in entries:
        names = dict.fromkeys(f"{axis.tensor}:{axis.dim}" for axis in entry.axes)
        table.add_row(Text(_PACKAGES.sub("", entry.reason)), str(len(entry.axes)), Text(_some(list(names))))
    return table


def _part(count: float, whole: float) -> str:
    return f"{short(count)} ({share(count, whole)})" if whole else short(count)


def _some(names: Sequence[str]) -> str:
    rest = len(names) - EXAMPLES
    return ", ".join(names[:EXAMPLES]) + (f" and {rest} more" if rest > 0 else "")
