"""What a command shows: its result on standard output, progress and errors on standard error."""

import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from graphopt.errors import GraphoptError
from graphopt.report.uncut import WIDEST, show

FAILED = 1
INTERRUPTED = 130


class Screen:
    """Shows progress while the block runs, then what `show` is given; turns an error into one line and an exit code.

    In the block standard output belongs to the result: under ``as_json`` whatever the user's own code prints goes to
    standard error. Warnings of libraries are held back unless Python was told to show them (``-W``, PYTHONWARNINGS).

    Args:
        as_json: Write one JSON document instead of tables.
        with_traceback: Show the stack of an error before its line.
        steps: How many times `step` will be called.
    """

    def __init__(self, *, as_json: bool, with_traceback: bool, steps: int = 1) -> None:
        self._as_json = as_json
        self._with_traceback = with_traceback
        self._steps = steps
        self._block = contextlib.ExitStack()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        """Take over standard output and warnings."""
        self._out = sys.stdout
        if self._as_json:
            self._block.enter_context(contextlib.redirect_stdout(sys.stderr))
        self._block.enter_context(warnings.catch_warnings())
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give everything back.

        Raises:
            typer.Exit: The block raised an error, which has been shown.
        """
        self._stop_progress()
        self._block.close()
        if isinstance(failure, KeyboardInterrupt):
            sys.stderr.write("error: interrupted\n")
            raise typer.Exit(INTERRUPTED) from failure
        if isinstance(failure, Exception) and not isinstance(failure, typer.Exit):
            if self._with_traceback:
                traceback.print_exception(failure)
            sys.stderr.write(error_text(failure) + "\n")
            raise typer.Exit(FAILED) from failure

    def plan_steps(self, count: int) -> None:
        """Say how many times `step` will be called, where that was not known before the block."""
        self._steps = count

    def step(self, description: str) -> None:
        """Say what comes next; seen on a terminal only.

        Args:
            description: A verb in -ing, and of what.
        """
        if self._progress is None:
            self._progress = self._block.enter_context(_progress())
            self._task = self._progress.add_task(description, total=self._steps)
        else:
            self._progress.update(self._task, description=description, advance=1, refresh=True)

    def show(self, document: Mapping[str, Any], *renderables: RenderableType) -> None:
        """Write the result of the command.

        Args:
            document: It as values that JSON knows.
            *renderables: It for people.
        """
        self._stop_progress()
        width = None if self._out.isatty() or "COLUMNS" in os.environ else WIDEST
        console = Console(file=self._out, width=width, highlight=False)
        if self._as_json:
            console.out(json.dumps(document, indent=2, allow_nan=False), highlight=False)
            return
        for renderable in renderables:
            show(console, renderable)

    def _stop_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def error_text(failure: Exception) -> str:
    """Return the line that tells a user of an error, followed by its notes, indented.

    Args:
        failure: One of graphopt's own errors, or any other.
    """
    if isinstance(failure, GraphoptError):
        text = str(failure)
    else:
        text = f"{type(failure).__name__}: {failure}; this was not foreseen: --traceback shows where it comes from"
    return "\n  ".join((f"error: {text}", *getattr(failure, "__notes__", ())))


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
