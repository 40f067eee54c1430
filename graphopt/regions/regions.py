"""Regions: everything that was found in a program, to be looked up, printed and written."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from graphopt.cuts import Cut
from graphopt.errors import GraphoptError
from graphopt.program import Program
from graphopt.regions.candidates import Survey
from graphopt.regions.region import Block, Branch, CutCandidate, Skip, Stack
from graphopt.regions.table import table

Region = Branch | Block | Stack | Skip | CutCandidate


@dataclass(frozen=True)
class Regions:
    """What was found in a program.

    Attributes:
        program: The program.
        sample: Name of the placeholder that everything is seen from.
        branches: What residual adds add, in the order of execution.
        blocks: Blocks, in the order of execution.
        stacks: Runs of consecutive blocks, most multiply-accumulates first: the first is the trunk.
        skips: Long skips, the last of the program first.
        survey: Tells what cuts save.
    """

    program: Program = field(repr=False)
    sample: str
    branches: tuple[Branch, ...]
    blocks: tuple[Block, ...]
    stacks: tuple[Stack, ...]
    skips: tuple[Skip, ...]
    survey: Survey = field(repr=False, compare=False)

    @cached_property
    def candidates(self) -> tuple[CutCandidate, ...]:
        """Cuts worth considering, most multiply-accumulates saved first; worked out when first asked for."""
        return self.survey.candidates(self.skips, self.stacks)

    def candidate(self, *cuts: Cut) -> CutCandidate:
        """Return what any cuts, made together, would save.

        Raises:
            GraphoptError: A cut names no value of the program.
        """
        return self.survey.candidate(cuts)

    def __str__(self) -> str:
        """Return a table with a line for each region; those of equal structure share one."""
        return f"regions seen from {self.sample}\n" + table(self.stacks, self.blocks, self.branches, self.skips)

    def find(self, pattern: str) -> tuple[Region, ...]:
        """Return the regions whose id or module path fits a glob pattern, such as ``branch.*`` or ``*.attn1``.

        Candidates are looked through where no branch, block, stack or skip fits.

        Raises:
            GraphoptError: Nothing fits.
        """
        for regions in (self._all(), iter(self.candidates if pattern.startswith("cut") else ())):
            found = tuple(region for region in regions if any(fnmatchcase(name, pattern) for name in _names(region)))
            if found:
                return found
        known = [name for region in self._all() for name in _names(region)]
        near = difflib.get_close_matches(pattern, known, n=4, cutoff=0.3) or known[:4]
        raise GraphoptError(f"found no region that fits {pattern!r}; nearest are {', '.join(near) or 'none'}")

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the program as plain data."""
        names = ("branches", "blocks", "stacks", "skips", "candidates")
        return {"sample": self.sample} | {name: [asdict(region) for region in getattr(self, name)] for name in names}

    def _all(self) -> Iterator[Region]:
        yield from self.branches
        yield from self.blocks
        yield from self.stacks
        yield from self.skips


def _names(region: Region) -> list[str]:
    module = "" if isinstance(region, Stack | CutCandidate) else region.module
    return [name for name in (region.id, module) if name]
