"""The table of the zoo as text."""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from zoo.row import NOT_BUILT, PASSES, Row

MOST = 0.98
"""Models that offer less than this share are listed with what is frozen."""

HEAD = (
    "model",
    "nodes",
    "parameters",
    "left",
    "offered",
    "mask = slice",
    "alone",
    "own class",
    "ONNX",
    "capture s",
    "prune s",
    "result",
)


def summary(rows: Sequence[Row]) -> str:
    """A few lines that say how many models pass, and what they have in common."""
    built = [row for row in rows if not row.failure.startswith(NOT_BUILT)]
    passing = [row for row in built if not row.failure]
    offered = sorted(_offered(row) for row in rows if row.nodes)
    tried = [row for row in rows if row.own_class is not None]
    back = [row for row in tried if row.own_class == ""]
    exported = [row for row in rows if row.onnx is not None]
    alone = [row.alone for row in rows if row.alone is not None]
    seconds = sorted(row.prune_seconds for row in rows if row.nodes)
    lines = [f"{len(passing)} of {len(built)} models pass; {_by_library(built)}"]
    if len(built) < len(rows):
        lines.append(f"{len(rows) - len(built)} more families of the registries, which no general rule builds small")
    if offered:
        lines.append(f"offered: median {median(offered):.1%}, smallest {offered[0]:.1%}")
    if alone:
        lines.append(f"mask equals slice: {sum(alone)} axes of {len(alone)} models also by themselves")
    if tried:
        lines.append(f"own class: {len(back)} of {len(tried)} ({len(back) / len(tried):.0%}) come back")
    refused = sum(bool(row.onnx_refused) for row in rows)
    lines.append(f"ONNX Runtime: {len(exported)} equal to torch, {refused} not exported")
    if seconds:
        lines.append(f"CPU seconds of the whole prune: median {median(seconds):.2f}, largest {seconds[-1]:.2f}")
    return "\n".join(lines)


def page(rows: Sequence[Row], command: str, seconds: float, *, kept: int = 0) -> str:
    """The page of the documentation.

    Args:
        rows: All rows, in order.
        command: What printed them.
        seconds: How long that took.
        kept: How many of the rows are of an earlier run.
    """
    earlier = f"\n\n{kept} of {len(rows)} rows are of earlier runs, of older code." if kept else ""
    parts = [
        "# Architectures",
        _INTRODUCTION.format(command=command, minutes=seconds / 60, passes=PASSES) + earlier,
        _bullets(summary(rows).splitlines()),
        _LEGEND,
    ]
    for library in dict.fromkeys(row.library for row in rows):
        own = [row for row in rows if row.library == library]
        parts += [f"## {library}", _table(own)]
    parts += [*_reasons(rows)]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """\
Written by `{command}` in {minutes:.0f} minutes; do not edit. Every model is small, with random weights and the
structure of its family. It is captured, pruned with `{passes}`,
and proved; nothing is told about it. A model that does not pass says why.

A model that returns hidden states beside its logits is taken with the logits alone, and one that returns hidden states
only with a linear layer behind the last of them (`tests/zoo/deployed.py`): an output keeps its width, and with it the
whole residual stream."""

_LEGEND = """\
* **parameters**, **left**: outside vocabulary tables, before and after.
* **offered**: what a person would prune: channels of linear, convolution, recurrent and norm layers, told by the
  model's modules, that a layer produces and that are neither inputs nor outputs of the model. The share that graphopt
  offers, each weight counted once for each of its channel dimensions. With "r": with `regroup=true`, where the groups
  of a GroupNorm straddle a concatenation.
* **mask = slice**: largest error of the first law, all units at once, on random parameters, on the separable twin where
  a statistic runs over the axis. Shapes at two batch sizes and replay of the plan are checked with it.
* **alone**: how many axes were proved by themselves besides, for the models where it was tried.
* **own class**: whether `result.module(model)` gives the user's class back, equal to the graph.
* **ONNX**: largest error of ONNX Runtime against torch, for the models where it was tried; "no" where there is no file.
* **capture s**, **prune s**: CPU seconds; the second is capture, analysis, scores, allocation and rewrite."""


def _table(rows: Iterable[Row]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    if not row.nodes:
        return (row.name, *["-"] * (len(HEAD) - 2), _plain(row.failure))
    mark = "r" if row.regrouped is not None and row.regrouped > row.offered else ""
    error = row.laws.get("mask equals slice")
    return (
        row.name,
        f"{row.nodes:,}",
        f"{row.parameters:,}",
        f"{row.left / max(row.parameters, 1):.0%}",
        f"{_offered(row):.0%}{mark}",
        "-" if error is None else f"{error:.0e}",
        "-" if row.alone is None else str(row.alone),
        {None: "-", "": "yes"}.get(row.own_class, "no"),
        f"{row.onnx:.0e}" if row.onnx is not None else "no" if row.onnx_refused else "-",
        f"{row.capture_seconds:.2f}",
        f"{row.prune_seconds:.2f}",
        _plain(row.failure) or "passes",
    )


def _offered(row: Row) -> float:
    return max(row.offered, row.regrouped or 0.0)


def _reasons(rows: Iterable[Row]) -> Iterable[str]:
    """Why classes do not come back or files are missing, and what a person would prune and is frozen."""
    rows = list(rows)
    refused = [f"`{row.library}/{row.name}`: {_plain(row.own_class)}" for row in rows if row.own_class]
    if refused:
        yield "## Classes that do not come back"
        yield _bullets(refused)
    unexported = [f"`{row.library}/{row.name}`: {_plain(row.onnx_refused)}" for row in rows if row.onnx_refused]
    if unexported:
        yield "## Not exported"
        yield _bullets(unexported)
    frozen = [
        f"`{row.library}/{row.name}`: {_plain('; '.join(row.frozen))}"
        for row in rows
        if row.frozen and _offered(row) < MOST
    ]
    if frozen:
        yield "## Frozen, though a person might prune it"
        yield _bullets(frozen)


def _by_library(rows: Iterable[Row]) -> str:
    total: Counter[str] = Counter()
    passing: Counter[str] = Counter()
    for row in rows:
        total[row.library] += 1
        passing[row.library] += not row.failure
    return ", ".join(f"{library} {passing[library]} of {count}" for library, count in total.items())


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _plain(text: str | None) -> str:
    """A text fit for a cell, without the folders of this machine."""
    shown = (text or "").replace("|", "/").replace("\n", " ")
    return " ".join(word.partition("site-packages/")[2] or word for word in shown.split(" "))
