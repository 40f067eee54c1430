"""Instruments: what watches a pipeline run from outside the passes."""

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from graphopt.pass_manager.base import Pass, PassResult
from graphopt.program import Program
from graphopt.proof import verify


class Instrument(Protocol):
    """Is told before and after each pass; an error it raises stops the pipeline."""

    def before(self, pass_: Pass, program: Program) -> None:
        """Be told that a pass is going to run.

        Args:
            pass_: The pass.
            program: What it is given.
        """

    def after(self, pass_: Pass, program: Program, result: PassResult) -> None:
        """Be told that a pass has run.

        Args:
            pass_: The pass.
            program: What it was given.
            result: What it returned.
        """


class TimingInstrument:
    """Measures how long each pass takes.

    Attributes:
        seconds: The text of each pass run and its time, in order.
    """

    def __init__(self) -> None:
        self.seconds: list[tuple[str, float]] = []
        self._start = 0.0

    def before(self, pass_: Pass, program: Program) -> None:
        """Start the clock."""
        self._start = perf_counter()

    def after(self, pass_: Pass, program: Program, result: PassResult) -> None:
        """Stop the clock."""
        self.seconds.append((str(pass_), perf_counter() - self._start))


class PrintingInstrument:
    """Prints the program before the first pass and after each pass that changed it.

    Args:
        write: Where the text goes, standard output by default.
    """

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write
        self._started = False

    def before(self, pass_: Pass, program: Program) -> None:
        """Print the program that the pipeline starts from."""
        if not self._started:
            self._print("before any pass", program)
        self._started = True

    def after(self, pass_: Pass, program: Program, result: PassResult) -> None:
        """Print the program if the pass changed it."""
        if result.changed:
            self._print(f"after {pass_}", result.program)
        else:
            self._line(f"# after {pass_}: unchanged\n")

    def _print(self, title: str, program: Program) -> None:
        self._line(f"# {title}\n{program}\n")

    def _line(self, text: str) -> None:
        write = sys.stdout.write if self._write is None else self._write
        write(text)


class VerifyInstrument:
    """Checks the laws after each pass that changed the program.

    Args:
        check: `check(program, result)` raises where a law is broken; `graphopt.proof.verify` by default.
    """

    def __init__(self, check: Callable[[Program, PassResult], object] | None = None) -> None:
        self._check = check

    def before(self, pass_: Pass, program: Program) -> None:
        """Do nothing: there is nothing to compare yet."""

    def after(self, pass_: Pass, program: Program, result: PassResult) -> None:
        """Check the result against the program it was made from.

        Raises:
            VerificationError: A law is broken.
        """
        if not result.changed:
            return
        (self._check or verify)(program, result)


class FuelInstrument:
    """Counts the rewrites made, against a limit.

    Args:
        limit: How many may be made, or None for any number.

    Attributes:
        used: How many were made.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self.used = 0

    @property
    def left(self) -> int | None:
        """How many rewrites may still be made, or None for any number."""
        return None if self._limit is None else max(0, self._limit - self.used)

    def before(self, pass_: Pass, program: Program) -> None:
        """Do nothing: fuel is counted when it is burnt."""

    def after(self, pass_: Pass, program: Program, result: PassResult) -> None:
        """Add what the pass used: what it reports, or one where it changed something."""
        self.used += int(result.changed) if result.fuel_used is None else result.fuel_used
