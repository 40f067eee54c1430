"""From the text of an option to places in a program where it is cut."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence

from graphopt.cuts import Cut, CutKind
from graphopt.errors import GraphoptError, SpecError
from graphopt.program import Program
from graphopt.regions import Block, Branch, CutCandidate, Regions, Skip, Stack, find_regions


def find_cuts(program: Program, texts: Iterable[str], kind: CutKind, sample: str | None) -> tuple[Cut, ...]:
    """The cuts that an option names.

    Args:
        program: the program to cut.
        texts: each a value by the name of its node, a residual ``base:value``, or a pattern of regions by id or by
            module, such as ``skip.0``, ``branch.*`` or ``blocks.3.attn``.
        kind: how regions are cut: their value, or their residual; candidates are cut as they are.
        sample: name of the input that changes from step to step; None for the one most like the output.

    Raises:
        SpecError: a text names nothing.
    """
    names = {node.name for node in program.graph_module.graph.nodes}
    found: dict[Cut, None] = {}
    regions: Regions | None = None
    for text in texts:
        cut = Cut.parse(text)
        if {cut.value, cut.base or cut.value} <= names:
            found[cut] = None
            continue
        regions = regions or find_regions(program, sample=sample)
        for region in _regions(regions, text, names):
            found.update(dict.fromkeys(region_cuts(region, kind)))
    return tuple(found)


def _regions(
    regions: Regions, text: str, names: Collection[str]
) -> Sequence[Branch | Block | Skip | Stack | CutCandidate]:
    try:
        return regions.find(text)
    except GraphoptError as error:
        close = difflib.get_close_matches(text, names, n=3)
        hint = f"; values of such names are {', '.join(close)}" if close else ""
        raise SpecError(f"found no value {text!r}{hint}; {error}", option="cuts") from error


def region_cuts(region: Branch | Block | Skip | Stack | CutCandidate, kind: CutKind) -> tuple[Cut, ...]:
    """The cuts that keep what a region gives: its value, or its residual.

    Raises:
        SpecError: the region has no residual of one shape.
    """
    if isinstance(region, Skip):
        return (Cut(region.main),)
    if isinstance(region, CutCandidate):
        return region.cuts
    if isinstance(region, Skip) and kind == "residual":
        raise SpecError(f"{region.id} is a value without a residual; cut it with kind=value", option="kind")
    if isinstance(region, Stack):
        last = len(region.blocks)
        return region.residual_cuts(0, last) if kind == "residual" else tuple(map(Cut, region.boundaries[last]))
    if isinstance(region, Branch):
        return (Cut(region.ungated),) if kind == "value" else (Cut(region.add, region.base),)
    if kind == "value":
        return tuple(Cut(name) for name in region.outputs)
    if not region.bypassable:
        raise SpecError(f"{region.id} gives other shapes than it takes, so it has no residual; cut with kind=value")
    return tuple(Cut(value, base) for base, value in zip(region.inputs, region.outputs, strict=True))
