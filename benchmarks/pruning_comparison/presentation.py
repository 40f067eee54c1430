"""The table of the comparison, on the screen and in Markdown."""

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from pruning_comparison.outcome import TOOLS, Outcome

COLUMNS = (
    "architecture",
    "params",
    *(f"{tool}: {column}" for tool in ("graphopt", "TP") for column in ("verdict", "error", "kept")),
    "graphopt: capture s",
    "graphopt: groups s",
    "TP: groups s",
    "graphopt: peak MB",
    "TP: peak MB",
    "analysis < capture",
)
MARKS = {"works": "green", "wrong": "bold red", "fails": "yellow"}


def print_table(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print the table, the reasons of failures and the counts."""
    table = Table(title="Pruned at ratio 0.5, no hints", header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "architecture" else "right", overflow="fold")
    for row in _rows(outcomes):
        table.add_row(*(f"[{MARKS[cell]}]{cell}[/]" if cell in MARKS else cell for cell in row))
    console.print(table)
    for line in (*_reasons(outcomes), *_counts(outcomes)):
        console.print(line, markup=False)


def markdown(outcomes: Sequence[Outcome], machine: str, seconds: int) -> str:
    """Return the table, the reasons and the counts as a page."""
    head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
    rows = "\n".join(f"| {' | '.join(row)} |" for row in _rows(outcomes))
    counts = "\n".join(f"* {line}" for line in _counts(outcomes))
    reasons = "\n".join(f"* {line.replace('|', chr(92) + '|')}" for line in _reasons(outcomes))
    return (
        "# graphopt beside Torch-Pruning\n\n"
        "Written by `make bench ARGS=pruning_vs_torch_pruning`; `benchmarks/README.md` says how to read it.\n\n"
        f"{machine}; {seconds} CPU seconds a tool and architecture.\n\n{counts}\n\n{head}\n{rows}\n\n"
        f"## Why a tool failed\n\n{reasons or 'No tool failed.'}\n"
    )


def _rows(outcomes: Sequence[Outcome]) -> Iterable[list[str]]:
    pairs: dict[tuple[str, str], dict[str, Outcome]] = {}
    for outcome in outcomes:
        pairs.setdefault((outcome.library, outcome.name), {})[outcome.tool] = outcome
    for (library, name), pair in pairs.items():
        ours, theirs = (pair[tool] for tool in TOOLS)
        yield [
            f"{library}/{name}",
            _number(ours.parameters or theirs.parameters, "{:,}"),
            *_quality(ours),
            *_quality(theirs),
            _number(ours.trace_seconds, "{:.2f}"),
            _number(ours.analysis_seconds, "{:.3f}"),
            _number(theirs.analysis_seconds, "{:.3f}"),
            _number(_megabytes(ours), "{:.0f}"),
            _number(_megabytes(theirs), "{:.0f}"),
            {True: "yes", False: "NO", None: "-"}[ours.analysis_is_cheap],
        ]


def _quality(outcome: Outcome) -> list[str]:
    return [outcome.verdict, _number(outcome.error, "{:.1e}"), _number(outcome.kept, "{:.0%}")]


def _megabytes(outcome: Outcome) -> float | None:
    return None if outcome.peak_bytes is None else outcome.peak_bytes / 1e6


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _reasons(outcomes: Iterable[Outcome]) -> list[str]:
    return [f"{item.tool} on {item.library}/{item.name}: {item.failure[:160]}" for item in outcomes if item.failure]


def _counts(outcomes: Sequence[Outcome]) -> list[str]:
    lines = []
    for tool in TOOLS:
        verdicts = Counter(item.verdict for item in outcomes if item.tool == tool)
        lines.append(f"{tool}: " + ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in MARKS))
    known = [item.analysis_is_cheap for item in outcomes if item.analysis_is_cheap is not None]
    lines.append(f"graphopt's analysis took less time than its capture on {sum(known)} of {len(known)} architectures")
    return lines
