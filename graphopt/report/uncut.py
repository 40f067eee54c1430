"""A table whose figures and names stay whole on a narrow terminal."""

from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table

WIDEST = 1000
"""Columns that a table may take where there is no terminal, so that every entry stays on one line."""

WORDS = 32
"""Columns that a longer text gets at least, before it is folded."""


class UncutTable(Table):
    """A table that asks for as many columns as its figures take, and :data:`WORDS` for longer texts."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row of texts."""
        super().add_row(*cells, **options)
        for column, cell in zip(self.columns, cells, strict=False):
            texts = (str(cell or ""), str(column.header))
            wanted = max(cell_len(line) for text in texts for line in (*text.splitlines(), ""))
            column.min_width = max(column.min_width or 0, wanted if column.no_wrap else min(wanted, WORDS))


def show(console: Console, renderable: RenderableType) -> None:
    """Print something; tables that do not fit run over the edge, where the terminal breaks their lines.

    Args:
        console: where to.
        renderable: a table, a text, or a group of such.
    """
    if isinstance(renderable, Group):
        for part in renderable.renderables:
            show(console, part)
        return
    if isinstance(renderable, Table):
        least = Measurement.get(console, console.options.update(width=WIDEST), renderable).minimum
        columns, console.width = console.width, max(least, console.width)
        console.print(renderable)
        console.width = columns
        return
    console.print(renderable)
