"""One architecture of the zoo, tried end to end: what a row of the table holds."""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from zoo.catalogue import Entry
from zoo.deployed import deployed
from zoo.offered import count_offer

import graphopt
from graphopt.cost import vocabulary_tables
from graphopt.errors import ExportError, ExportMismatchError, GraphoptError
from graphopt.pass_manager import Result
from graphopt.program import Program

PASSES = "prune-channels{ratio=0.5,scope=uniform,importance=random}"
TOLERANCE = 1e-4
"""Largest error of mask equals slice."""

HALF = 0.5
"""Share of the parameters outside vocabulary tables that may be left."""

NOT_BUILT = "not built"
"""How the reason begins where there was no model to try."""

ENOUGH = 0.8
"""Share of a person's channels that are to be offered."""


@dataclass
class Row:
    """What one architecture gave.

    Attributes:
        name: Name of the entry.
        library: Its library.
        failure: Why it does not pass; empty where it does.
        nodes: Nodes of the captured graph.
        dynamic_batch: Whether the batch is free.
        parameters: Outside vocabulary tables, before.
        left: The same after pruning.
        offered: Share of a person's channels that are offered.
        regrouped: That share where groups of a GroupNorm may change their members; None where it is the same.
        frozen: The most frequent reasons, of what a person would prune and graphopt does not offer.
        laws: Largest error of each law that was checked.
        alone: How many axes were proved by themselves besides; None where that was not tried.
        own_class: Why the user's own class does not come back; empty where it does, None where it was not tried.
        onnx: Largest error of ONNX Runtime; None where it was not tried or there is no file.
        onnx_refused: Why there is no file; empty where there is, or where it was not tried.
        capture_seconds: CPU seconds of the capture.
        prune_seconds: CPU seconds of capture, analysis, scores and rewrite.
    """

    name: str
    library: str
    failure: str = ""
    nodes: int = 0
    dynamic_batch: bool = False
    parameters: int = 0
    left: int = 0
    offered: float = 0.0
    regrouped: float | None = None
    frozen: dict[str, int] = field(default_factory=dict)
    laws: dict[str, float] = field(default_factory=dict)
    alone: int | None = None
    own_class: str | None = None
    onnx: float | None = None
    onnx_refused: str = ""
    capture_seconds: float = 0.0
    prune_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The row as values that JSON knows."""
        return asdict(self)


def try_entry(entry: Entry, *, onnx: bool, alone: bool = False) -> Row:
    """Capture, analyse, prune half of every axis, prove it, and take the user's own class back.

    Args:
        entry: The architecture.
        onnx: Also export the result and compare ONNX Runtime with torch.
        alone: Also prove every axis by itself.
    """
    row = Row(entry.name, entry.library)
    steps: list[Callable[[_Trial, Row], None]] = [_prune, _offer, _prove_alone if alone else _prove, _own_class]
    steps += [_onnx] * onnx
    try:
        model, args, kwargs = entry.build()
        model = deployed(model, args, kwargs)
    except Exception as error:  # whatever a library raises is a row of the table
        row.failure = f"{NOT_BUILT}: {_line(error)}"
        return row
    trial = _Trial(model, args, kwargs)
    for step in steps:
        try:
            step(trial, row)
        except Exception as error:
            row.failure = row.failure or f"{step.__name__.strip('_').replace('_', ' ')}: {_line(error)}"
        if trial.result is None:
            break
    return row


@dataclass
class _Trial:
    """A model on its way."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    program: Program | None = None
    result: Result | None = None


def _prune(trial: _Trial, row: Row) -> None:
    begun = time.process_time()
    trial.program = graphopt.capture(trial.model, trial.args, trial.kwargs)
    row.capture_seconds = time.process_time() - begun
    context = graphopt.PassContext(seed=0, verify=False)
    result = graphopt.Pipeline(PASSES).run(trial.program, context)
    row.prune_seconds = time.process_time() - begun
    trial.result = result
    row.nodes = len(list(trial.program.nodes()))
    row.dynamic_batch = trial.program.dynamic_batch
    row.parameters = _read_parameters(trial.program)
    row.left = _read_parameters(result.program)
    failures = graphopt.DependencyGraph(trial.program).analysis.failures
    if failures:
        row.failure = f"operators without a rule: {', '.join(sorted(map(str, failures)))}"
    elif row.left > HALF * row.parameters:
        row.failure = f"{row.left / row.parameters:.0%} of the parameters are left, wanted {HALF:.0%}"


def _read_parameters(program: Program) -> int:
    """Number of parameters that some operator reads, outside vocabulary tables; tied ones once."""
    tables = vocabulary_tables(program)
    read = {str(node.target) for node in program.nodes() if node.op == "get_attr"}
    named = program.graph_module.named_parameters(remove_duplicate=False)
    found = {id(tensor): tensor.numel() for name, tensor in named if name in read and name not in tables}
    return sum(found.values())


def _offer(trial: _Trial, row: Row) -> None:
    assert trial.program is not None
    offer = count_offer(trial.model, trial.program)
    row.offered = offer.share
    row.frozen = dict(offer.reasons.most_common(3))
    if any("group_norm" in reason for reason in offer.reasons):
        row.regrouped = count_offer(trial.model, trial.program, regroup=True).share
    best = max(row.offered, row.regrouped or 0.0)
    if best < ENOUGH:
        row.failure = row.failure or f"{best:.0%} of the channels are offered, wanted {ENOUGH:.0%}"


def _prove(trial: _Trial, row: Row, *, alone: bool = False) -> None:
    assert trial.program is not None
    assert trial.result is not None
    report = graphopt.verify(trial.program, trial.result, per_axis=alone)
    for check in report.checks:
        row.laws[check.law] = max(check.error, row.laws.get(check.law, 0.0))
    if alone:
        row.alone = sum(check.detail.endswith(" alone") for check in report.checks)
    error = row.laws.get("mask equals slice", math.inf)
    if not error < TOLERANCE:
        row.failure = row.failure or f"mask equals slice: error {error:.1e}"


def _prove_alone(trial: _Trial, row: Row) -> None:
    _prove(trial, row, alone=True)


def _own_class(trial: _Trial, row: Row) -> None:
    assert trial.result is not None
    try:
        own = trial.result.module(trial.model)
    except GraphoptError as error:
        row.own_class = _line(error)
        return
    error = _difference(own, trial)
    row.own_class = "" if error < TOLERANCE else f"its outputs differ by {error:.1e}"


def _difference(own: nn.Module, trial: _Trial) -> float:
    """Largest error of a module against the rewritten graph, relative to an output's largest magnitude."""
    assert trial.result is not None
    worst = 0.0
    with torch.no_grad():
        pairs = zip(_tensors(own, trial), _tensors(trial.result.module(), trial), strict=True)
        for found, wanted in pairs:
            scale = float(wanted.abs().max()) or 1.0
            worst = max(worst, float((found - wanted).abs().max()) / scale)
    return worst


def _tensors(module: nn.Module, trial: _Trial) -> list[torch.Tensor]:
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (trial.args, trial.kwargs))
    torch.manual_seed(0)
    leaves = pytree.tree_leaves(module(*args, **kwargs))
    return [leaf.double() for leaf in leaves if isinstance(leaf, torch.Tensor) and not leaf.is_complex()]


def _onnx(trial: _Trial, row: Row) -> None:
    assert trial.result is not None
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = graphopt.export_onnx(trial.result.program, Path(folder) / "model.onnx")
        except ExportMismatchError:
            raise
        except ExportError as error:
            row.onnx_refused = _line(error)
            return
    row.onnx = max(output.relative for output in report.errors)


def _line(error: BaseException) -> str:
    """The first line of an error, at most 300 characters."""
    text = next(iter(str(error).splitlines()), "")[:300]
    return f"{type(error).__name__}: {text}" if not isinstance(error, GraphoptError) else text
