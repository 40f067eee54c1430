"""What a demonstration found: one table, and the same as JSON."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from graphopt.demo.spread import Spread, compare
from graphopt.exporters.atomic import atomic_file


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant of the model.

    Attributes:
        name: What the variant is.
        parameters: Number of parameters.
        macs: Multiply-accumulates per sample.
        torch_milliseconds: Median time of a batch in torch, None where it was not timed.
        onnx_milliseconds: Median time of a batch in ONNX Runtime, None where it was not timed.
        quality: Figures of quality by name, over seeds.
    """

    name: str
    parameters: int | None = None
    macs: int | None = None
    torch_milliseconds: float | None = None
    onnx_milliseconds: float | None = None
    quality: Mapping[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """How a figure of quality is shown.

    Attributes:
        title: Head of its column.
        template: Format of one number, such as ``{:.2f}``.
        scale: What the number is multiplied by before.
        lower_is_better: Whether smaller means better.
    """

    title: str
    template: str
    scale: float = 1.0
    lower_is_better: bool = False

    def show(self, spread: Spread | None) -> str:
        """Return mean ± deviation, the mean alone where there is one value, or nothing for None."""
        if spread is None:
            return ""
        mean = self.template.format(spread.mean * self.scale)
        if spread.deviation is None:
            return mean
        return f"{mean} ± {self.template.format(spread.deviation * self.scale)}"


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """What a demonstration found.

    Attributes:
        title: What was done, in one line.
        rows: The variants, the original first.
        figures: The quality columns by the names they have in the rows.
        findings: What was compared in the run, and the verdict on each figure.
        notes: How it was measured, one line each.
        files: What was written, by name.
        seconds: How long each part took.
    """

    title: str
    rows: tuple[Row, ...]
    figures: Mapping[str, Figure]
    findings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON knows."""
        return {
            "title": self.title,
            "rows": [asdict(row) for row in self.rows],
            "findings": {name: dict(found) for name, found in self.findings.items()},
            "notes": list(self.notes),
            "files": {name: str(path) for name, path in self.files.items()},
            "seconds": dict(self.seconds),
        }

    def table(self) -> Table:
        """Return the report as a table for a terminal."""
        table = Table(
            title=self.title,
            title_style="bold",
            caption="\n".join(self._lines()),
            caption_style="",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            collapse_padding=True,
            pad_edge=False,
        )
        table.add_column("", no_wrap=True)
        for title in ("params", "MACs", "torch ms", "ONNX ms", *(item.title for item in self.figures.values())):
            table.add_column(title, justify="right", overflow="fold")
        first = self.rows[0]
        for row in self.rows:
            quality = (item.show(row.quality.get(name)) for name, item in self.figures.items())
            table.add_row(*_cells(row, first), *quality)
        return table

    def _lines(self) -> Iterator[str]:
        """Yield what stands under the table."""
        yield from self.notes
        for name, found in self.findings.items():
            yield f"{name}: {', '.join(f'{title} {verdict}' for title, verdict in found.items())}."

    def save(self, path: Path) -> None:
        """Write the report as a JSON file.

        Args:
            path: The file; its folder must exist.
        """
        atomic_file(path, (json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n").encode())


def verdicts(
    first: Mapping[str, Spread], second: Mapping[str, Spread], figures: Mapping[str, Figure]
) -> dict[str, str]:
    """Compare two variants figure by figure.

    Args:
        first: Quality of the variant that may be better.
        second: Quality of what it is compared with.
        figures: What is compared, by the names it has in both.

    Returns:
        Title of the figure to the verdict of `graphopt.demo.spread.compare`.
    """
    return {
        figure.title: compare(first[name], second[name], lower_is_better=figure.lower_is_better)
        for name, figure in figures.items()
    }


def _cells(row: Row, first: Row) -> tuple[str, ...]:
    """Return name, sizes with their share of the first row's, and times with the speed-up over it."""
    return (
        row.name,
        _share(row.parameters, first.parameters),
        _share(row.macs, first.macs),
        _speed_up(row.torch_milliseconds, first.torch_milliseconds),
        _speed_up(row.onnx_milliseconds, first.onnx_milliseconds),
    )


def _share(count: int | None, whole: int | None) -> str:
    if count is None:
        return ""
    shown = f"{count / 1e6:.2f}M"
    return shown if whole is None or count == whole else f"{shown} ({count / whole:.0%})"


def _speed_up(milliseconds: float | None, before: float | None) -> str:
    if milliseconds is None:
        return ""
    shown = f"{milliseconds:.1f}"
    return shown if before is None or milliseconds == before else f"{shown} ({before / milliseconds:.2f}x)"
