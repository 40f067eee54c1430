"""Reports as tables for a terminal."""

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
from graphopt.report.uncut import UncutTable

EXAMPLES = 3
"""How many of the things that a reason freezes, or that a pass refused, are named in a table."""

_TITLES = {
    "torch_seconds": "torch",
    "onnx_seconds": "ONNX Runtime",
    "macs": "MACs",
    "parameter_bytes": "parameter bytes",
    "parameters_without_vocabulary": "parameters without vocabulary",
    "activation_peak_bytes": "activation peak",
    "seconds": "time",
    "noise_seconds": "noise",
}


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
    yield from labelled("note", found.notes)


def plain_table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Return names and values in two columns."""
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, show_header=False, title_justify="left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _before_and_after(title: str, rows: Iterable[tuple[str, float | None, float | None]]) -> Table:
    table = make_table(title, ("",), ("before", "after", "after / before"))
    for name, before, after in rows:
        cells = ("-" if value is None else figure(name, value) for value in (before, after))
        ratio = share(after, before) if before is not None and after is not None else ""
        table.add_row(title_of(name), *cells, ratio)
    return table


def _kinds_table(plan: Plan) -> Table:
    table = make_table("kept", ("kind",), ("axes", "units kept", "of"))
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
    yield from labelled("note", entry.notes)


def labelled(label: str, lines: Iterable[str]) -> Iterator[Text]:
    """Return lines with a word before each."""
    return (Text(f"{label}: {line}") for line in lines)


def make_table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """Return an empty table with columns of words on the left and of figures on the right."""
    table = UncutTable(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def title_of(name: str) -> str:
    """Return what people call a figure."""
    return _TITLES.get(name, name.replace("_", " "))


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"
