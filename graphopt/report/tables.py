"""Reports as tables for a terminal."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.pass_manager.base import PassReport
from graphopt.pass_manager.result import Report
from graphopt.plan import Plan
from graphopt.report.benchmark import Benchmark
from graphopt.report.figures import figure, share, short
from graphopt.report.inspection import FrozenReason, Inspection

EXAMPLES = 3
"""How many of the things that a reason freezes, or that a pass refused, are named in a table."""

_PACKAGES = re.compile(r"\S*[/\\]site-packages[/\\]")
"""Where installed packages lie, which every path into one of them begins with."""

_TITLES = {
    "torch_seconds": "torch",
    "onnx_seconds": "ONNX Runtime",
    "macs": "MACs",
    "parameter_bytes": "parameter bytes",
    "parameters_without_vocabulary": "parameters without vocabulary",
    "activation_peak_bytes": "activation peak",
}


def inspection_tables(inspection: Inspection) -> Iterator[RenderableType]:
    """Yield what could be pruned, what is frozen, and the totals."""
    total = inspection.totals
    title = f"{inspection.model}: {len(inspection.groups)} coupling groups"
    groups = _table(title, ("group", "kind"), ("size", "members", "parameters/unit", "half: parameters", "half: MACs"))
    groups.add_column("marks")
    for group in inspection.groups:
        groups.add_row(
            Text(group.id),
            group.kind,
            str(group.size),
            str(group.members),
            short(group.parameters_per_unit),
            _part(group.parameters_of_half, total["parameters"]),
            _part(group.macs_of_half, total["macs"]),
            ", ".join(group.marks),
        )
    yield groups
    yield _frozen_table(inspection.frozen)
    figures = (f"{_title(name)} {figure(name, value)}" for name, value in total.items())
    yield Text(", ".join(figures))
    yield from _lines("note", inspection.notes)


def report_tables(report: Report, plan: Plan | None) -> Iterator[RenderableType]:
    """Yield what each pass did in figures and words, and how much of every kind of axis is kept."""
    for entry in report.passes:
        rows = [(name, entry.before[name], entry.after[name]) for name in entry.before if name in entry.after]
        yield _before_and_after(f"{entry.spec}, {entry.seconds:.3g} s", rows)
        yield from _remarks(entry)
    if plan is not None and plan.axes:
        yield _kinds_table(plan)


def benchmark_tables(found: Benchmark) -> Iterator[RenderableType]:
    """Yield figures before and after, and what the times hold for."""
    before, after = asdict(found.before), asdict(found.after)
    yield _before_and_after(found.model, [(name, before[name], after[name]) for name in before])
    yield Text(f"{found.repeats} interleaved rounds, medians, {_threads(found.threads)}, torch on {found.device}")
    yield from _lines("note", found.notes)


def plain_table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Return names and values in two columns."""
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, show_header=False, title_justify="left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _frozen_table(entries: Sequence[FrozenReason]) -> Table:
    table = _table("frozen", ("reason",), ("dimensions",))
    table.add_column("for example", overflow="fold")
    for entry in entries:
        names = dict.fromkeys(f"{axis.tensor}:{axis.dim}" for axis in entry.axes)
        table.add_row(Text(_PACKAGES.sub("", entry.reason)), str(len(entry.axes)), Text(_some(list(names))))
    return table


def _before_and_after(title: str, rows: Iterable[tuple[str, float | None, float | None]]) -> Table:
    table = _table(title, ("",), ("before", "after", "after / before"))
    for name, before, after in rows:
        cells = ("-" if value is None else figure(name, value) for value in (before, after))
        ratio = share(after, before) if before is not None and after is not None else ""
        table.add_row(_title(name), *cells, ratio)
    return table


def _kinds_table(plan: Plan) -> Table:
    table = _table("kept", ("kind",), ("axes", "units kept", "of"))
    kinds: dict[str, list[tuple[int, int]]] = {}
    for axis in plan.axes.values():
        kinds.setdefault(axis.kind, []).append((len(axis.kept), axis.size))
    for kind, counts in sorted(kinds.items()):
        kept, whole = (sum(column) for column in zip(*counts, strict=True))
        table.add_row(kind, str(len(counts)), short(kept), short(whole))
    return table


def _remarks(entry: PassReport) -> Iterator[Text]:
    if entry.frozen:
        yield Text(f"frozen: {len(entry.frozen)} dimensions; graphopt inspect tells why")
    yield from map(Text, entry.refused[:EXAMPLES])
    if len(entry.refused) > EXAMPLES:
        yield Text(f"and {len(entry.refused) - EXAMPLES} more, which --json lists")
    yield from _lines("note", entry.notes)


def _lines(label: str, lines: Iterable[str]) -> Iterator[Text]:
    return (Text(f"{label}: {line}") for line in lines)


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _part(count: int, whole: int) -> str:
    return f"{short(count)} ({share(count, whole)})" if whole else short(count)


def _some(names: Sequence[str]) -> str:
    rest = len(names) - EXAMPLES
    return ", ".join(names[:EXAMPLES]) + (f" and {rest} more" if rest > 0 else "")


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"
