"""Regions as a table of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphopt.regions.costing import RegionCost
from graphopt.regions.region import Block, Branch, Skip, Stack

Row = tuple[str, str, str, str, str]
HEAD: Row = ("region", "from -> to", "MACs", "parameters", "module")


def table(stacks: Sequence[Stack], blocks: Sequence[Block], branches: Sequence[Branch], skips: Sequence[Skip]) -> str:
    """Return the regions as text, those of equal structure in one line that shows the first and their sums."""
    rows = [HEAD, *map(_stack, stacks), *_grouped(blocks), *_grouped(branches), *map(_skip, skips)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _stack(stack: Stack) -> Row:
    name = f"{stack.id} of {len(stack.blocks)} blocks"
    return (name, _way(stack.boundaries[0], stack.boundaries[-1]), *_numbers([stack.cost]), "")


def _skip(skip: Skip) -> Row:
    return (skip.id, f"{skip.main} + {skip.skip} -> {skip.concat}", "", "", skip.module)


def _grouped(regions: Sequence[Block | Branch]) -> Iterator[Row]:
    alike: dict[str, list[Block | Branch]] = {}
    for region in regions:
        alike.setdefault(region.key, []).append(region)
    yield from map(_row, alike.values())


def _row(members: Sequence[Block | Branch]) -> Row:
    first, last = members[0], members[-1]
    name = first.id if first is last else f"{first.id} .. {last.id.rpartition('.')[2]}, {len(members)} alike"
    what = f"{name}: {first.kind}" if isinstance(first, Branch) else name
    module = first.module if first is last else f"{first.module} .. {last.module}"
    return (what, _way(_start(first), _end(first)), *_numbers([member.cost for member in members]), module)


def _start(region: Block | Branch) -> tuple[str, ...]:
    return (region.base,) if isinstance(region, Branch) else region.inputs


def _end(region: Block | Branch) -> tuple[str, ...]:
    return (region.add,) if isinstance(region, Branch) else region.outputs


def _way(start: tuple[str, ...], end: tuple[str, ...]) -> str:
    return f"{', '.join(start)} -> {', '.join(end)}"


def _numbers(costs: Sequence[RegionCost]) -> tuple[str, str]:
    return f"{sum(cost.macs for cost in costs):,}", f"{sum(cost.parameters for cost in costs):,}"
