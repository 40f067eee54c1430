"""The benchmark of a schedule as a table for a terminal."""

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.report.figures import milliseconds, share, short
from graphopt.report.schedule_benchmark import ORIGINAL, ScheduleBenchmark
from graphopt.report.variant import Variant


def schedule_tables(found: ScheduleBenchmark) -> Iterator[RenderableType]:
    """Yield every program's figures and what they add up to, and what the times hold for.

    Args:
        found: What `benchmark_schedule` measured.
    """
    table = Table(title=Text(found.model), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("program")
    for title in ("runs", "parameters", "MACs", "torch", "ONNX Runtime"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_row(ORIGINAL, "", *_figures(found.original))
    for name, one in found.programs.items():
        table.add_row(name, str(found.runs.get(name, 0)), *_figures(one))
    yield table
    yield from map(Text, _sums(found))
    threads = f"{found.threads} thread" + "s" * (found.threads != 1)
    yield Text(f"{found.repeats} interleaved rounds, medians, {threads}, torch on {found.device}")
    yield from (Text(f"note: {note}") for note in found.notes)


def _figures(one: Variant) -> tuple[str, ...]:
    seconds = (milliseconds(one.torch_seconds), milliseconds(one.onnx_seconds))
    return (short(one.parameters), short(one.macs), *seconds)


def _sums(found: ScheduleBenchmark) -> Iterator[str]:
    """Yield what a generation, or a cached step, takes beside as many uncached steps."""
    what = f"a generation of {found.steps} steps" if found.steps > 1 else "a cached step"
    totals, ratios = found.totals, found.ratios
    original = {"macs": found.original.macs, "torch_seconds": found.original.torch_seconds}
    original["onnx_seconds"] = found.original.onnx_seconds or 0.0
    for name, title in (("macs", "MACs"), ("torch_seconds", "torch"), ("onnx_seconds", "ONNX Runtime")):
        if name not in ratios:
            continue
        show = short if name == "macs" else milliseconds
        whole = found.steps * original[name]
        part = share(totals[name], whole)
        yield f"{what}, {title}: {show(totals[name])} of {show(whole)}, {part}, {1 / ratios[name]:.2f}x"
