"""The figures as lines of text and as a page."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from prune_speed_comparison.outcome import TOOLS, Outcome, quantile

MOST_SECONDS = 10
"""CPU seconds that no model of the zoo is to take more of."""


def lines_of(figures: dict[str, Any]) -> list[str]:
    """Return what is to be said of the zoo and of the models of full size."""
    lines = []
    for part in ("zoo", "unet"):
        lines += [_summary(part, tool, figures[part]) for tool in TOOLS if part in figures]
    if "zoo" in figures:
        lines += _goals(figures["zoo"])
    llama = figures.get("llama")
    if llama:
        whole = llama["capture"] + llama["analysis"]
        lines.append(
            f"llama: {llama['parameters'] / 1e9:.1f} G parameters on the meta device, {llama['nodes']} nodes, captured "
            f"in {llama['capture']:.1f} and analysed in {llama['analysis']:.1f} CPU s, {whole:.1f} together (goal 15); "
            f"{llama['peak_bytes'] / 1e9:.2f} GB more at the peak (goal 1.5)"
        )
    return lines


def depth_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Return seconds by depth, and the slope of their logarithms by least squares over all depths."""
    lines = []
    for tool in TOOLS:
        known = [(int(one.model.split("/")[1]), one.total) for one in outcomes if one.tool == tool and one.total]
        if len(known) < 2:
            continue
        depths, seconds = zip(*known, strict=True)
        slope = float(np.polyfit(np.log(depths), np.log(seconds), 1)[0])
        shown = ", ".join(f"{depth}: {total:.2f}" for depth, total in known)
        lines.append(f"depth, {tool}: {shown} s; log-log slope {slope:.2f}")
    return lines


def markdown(figures: dict[str, Any], machine: str, seconds: int) -> str:
    """Return the page."""
    counts = "\n".join(f"* {line}" for line in (*lines_of(figures), *depth_lines(figures.get("depth", []))))
    head = "| model | nodes | capture | groups | whole | TP: build | TP: whole | TP |\n|---|" + "--:|" * 6 + "---|"
    rows = "\n".join(_rows([*figures.get("zoo", []), *figures.get("unet", []), *figures.get("depth", [])]))
    return (
        "# CPU seconds of a whole prune\n\n"
        "Written by `make bench ARGS=prune_speed`; `benchmarks/README.md` says how to read it.\n\n"
        f"{machine}; {seconds} CPU seconds a tool and model, {_share(figures['every'])}, load {figures['load']:.1f} at "
        f"the start and {figures['load_after']:.1f} at the end on {figures['cores']} cores.\n\n"
        f"{counts}\n\n{head}\n{rows}\n"
    )


def _share(every: int) -> str:
    return "every model of the zoo" if every == 1 else f"every {every}th model of the zoo"


def _summary(part: str, tool: str, outcomes: Sequence[Outcome]) -> str:
    own = [one for one in outcomes if one.tool == tool]
    done = [one.total for one in own if not one.failure and one.total is not None]
    spent = [one.spent for one in own if not math.isnan(one.spent)]
    finished = f"median {median(done):.3f} s, slowest {_slowest(own)}" if done else "none finished"
    return (
        f"{part}, {tool}: {len(done)} of {len(own)} pruned and run; {finished}; "
        f"of all, failures and stops included, median {quantile(spent, 0.5):.2f} s and p90 {quantile(spent, 0.9):.2f} s"
    )


def _slowest(outcomes: Sequence[Outcome]) -> str:
    """Return the seconds and the name of the one that took longest among those that ended well."""
    done = [(one.total, one.model) for one in outcomes if not one.failure and one.total is not None]
    seconds, name = max(done)
    return f"{seconds:.2f} s ({name})"


def _goals(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what the goals are about: models that both prune, the ninetieth percentile, the slowest of all."""
    pairs = [pair for pair in _pairs(outcomes).values() if all(not one.failure and one.total for one in pair.values())]
    lines = []
    if pairs:
        ours, theirs = (median([float(pair[tool].total or 0.0) for pair in pairs]) for tool in TOOLS)
        lines.append(
            f"zoo, {len(pairs)} models that both prune: median {ours:.3f} s and {theirs:.3f} s, "
            f"{ours / theirs:.1f} times the peer's (goal 2)"
        )
    spent = [[one.spent for one in outcomes if one.tool == tool and not math.isnan(one.spent)] for tool in TOOLS]
    ours, theirs = (quantile(seconds, 0.9) for seconds in spent)
    slow = [one.model for one in outcomes if one.tool == TOOLS[0] and one.spent > MOST_SECONDS]
    lines.append(f"zoo, p90 of all: {ours:.2f} s and {theirs:.2f} s, {ours / theirs:.2f} times the peer's (goal 0.5)")
    lines.append(f"zoo, over {MOST_SECONDS} s in graphopt (goal none): {', '.join(slow) or 'none'}")
    return lines


def _pairs(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Outcome]]:
    """Return the outcomes by model and tool."""
    pairs: dict[str, dict[str, Outcome]] = {}
    for one in outcomes:
        pairs.setdefault(one.model, {})[one.tool] = one
    return pairs


def _rows(outcomes: Sequence[Outcome]) -> list[str]:
    rows = []
    for model, pair in _pairs(outcomes).items():
        ours, theirs = (pair[tool] for tool in TOOLS)
        cells = [model, str(ours.nodes or "-"), *map(_seconds, (ours.trace, ours.groups, ours.total))]
        said = (ours.failure and f"graphopt: {ours.failure} ") + (theirs.failure or "works")
        cells += [*map(_seconds, (theirs.trace, theirs.total)), said.replace("|", "\\|")[:160]]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
