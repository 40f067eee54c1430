"""Regions: everything that was found in a program, to be looked up, printed and written."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from graphopt.errors import GraphoptError
from graphopt.program import Program
from graphopt.regions.region import Block, Branch, CutCandidate, Skip, Stack

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
        candidates: Cuts worth considering.
    """

    program: Program = field(repr=False)
    sample: str
    branches: tuple[Branch, ...]
    blocks: tuple[Block, ...]
    stacks: tuple[Stack, ...]
    skips: tuple[Skip, ...]
    candidates: tuple[CutCandidate, ...]

    def find(self, pattern: str) -> tuple[Region, ...]:
        """Return the regions whose id or module path fits a glob pattern, such as ``branch.*`` or ``*.attn1``.

        Raises:
            GraphoptError: Nothing fits.
        """
        found = tuple(region for region in self._all() if any(fnmatchcase(name, pattern) for name in _names(region)))
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
        yield from self.candidates


def _names(region: Region) -> list[str]:
    module = "" if isinstance(region, Stack | CutCandidate) else region.module
    return [name for name in (region.id, module) if name]
