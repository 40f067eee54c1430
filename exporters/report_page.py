"""The report of a result as one HTML file that needs nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from graphopt.pass_manager.base import PassReport
from graphopt.pass_manager.result import Report
from graphopt.plan import Plan
from graphopt.program import Program

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 0.5rem 0; }
th, td { padding: 0.2rem 0.8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
code { background: #f4f4f4; padding: 0.1rem 0.3rem; overflow-wrap: anywhere; }
"""


def report_page(report: Report, plan: Plan, program: Program) -> str:
    """Return a page with the figures of every pass and what is kept of every axis.

    Args:
        report: What the pipeline did.
        plan: What it decided.
        program: The program it made.

    Returns:
        A whole HTML document without scripts or links.
    """
    title = escape(f"graphopt: {plan.source.class_name}")
    distinct = {id(tensor): tensor for tensor in program.parameters.values()}.values()
    count = sum(tensor.numel() for tensor in distinct)
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in distinct)
    body = [
        f"<h1>{title}</h1>",
        f"<p>{count:,} parameters and buffers, {size_bytes:,} bytes.</p>",
        *(_pass_section(entry) for entry in report.passes),
        _axes_section(plan),
        _list_section("Notes of the capture", program.notes),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(filter(None, body)) + "\n</body>\n</html>\n"
    )


def _pass_section(entry: PassReport) -> str:
    parts = [
        f"<h2>{escape(entry.name)}</h2>",
        f"<p><code>{escape(entry.spec)}</code>, {entry.seconds:.3g} s</p>",
        _figures(entry.before, entry.after),
        _list_section("Frozen", entry.frozen),
        _list_section("Refused", entry.refused),
        _list_section("Notes", entry.notes),
    ]
    return "\n".join(filter(None, parts))


def _figures(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    names = list(dict.fromkeys((*before, *after)))
    rows = [(name, _number(before.get(name)), _number(after.get(name)), _ratio(before, after, name)) for name in names]
    return _table(("", "before", "after", "after / before"), rows)


def _axes_section(plan: Plan) -> str:
    rows = [(name, axis.kind, str(len(axis.kept)), str(axis.size)) for name, axis in plan.axes.items()]
    table = _table(("axis", "kind", "kept", "of"), rows)
    return f"<h2>Axes</h2>\n{table}" if table else ""


def _table(head: Iterable[str], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table>\n<tr>{header}</tr>\n" + "\n".join(lines) + "\n</table>"


def _list_section(title: str, lines: Iterable[str]) -> str:
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h3>{escape(title)}</h3>\n<ul>\n{items}\n</ul>" if items else ""


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def _ratio(before: Mapping[str, float], after: Mapping[str, float], name: str) -> str:
    if name not in after or not before.get(name):
        return ""
    return f"{after[name] / before[name]:.3f}"
