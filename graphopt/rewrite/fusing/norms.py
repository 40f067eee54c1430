"""Residual adds of stored values, the norm behind them and its modulation: one kernel for all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from graphopt.rewrite.fusing.modulation import Modulation, modulations
from graphopt.rewrite.fusing.normalisation import ANCHORS, Norm, norm_of
from graphopt.rewrite.fusing.site import Site, alike, binary
from graphopt.values import refresh_some, value_of

aten = torch.ops.aten
SUM, RUN = "stack_apply", "cached_apply"
Call = tuple[str, tuple[Any, ...], Modulation]
"""A kernel, its arguments, and how far behind the norm it goes."""


@dataclass(frozen=True)
class Term:
    """What is added to a residual stream.

    Attributes:
        whole: what is added.
        value: the same before its gate.
        gate: what it is multiplied with; None where there is nothing.
    """

    whole: fx.Node
    value: fx.Node
    gate: fx.Node | None = None


@dataclass(frozen=True)
class Run:
    """Consecutive residual adds of which nobody reads what lies between.

    Attributes:
        base: the stream before them.
        terms: what they add, in this order.
        total: the stream behind them.
    """

    base: fx.Node
    terms: tuple[Term, ...]
    total: fx.Node


def fuse_norms(site: Site) -> None:
    """Let one kernel add what is stored to the stream, normalise the sum and modulate it."""
    for node in site.nodes(*ANCHORS):
        norm = norm_of(node)
        run = _run(site, norm.source) if norm is not None else None
        if norm is not None and run is not None:
            _fuse(site, run, norm)


def _fuse(site: Site, run: Run, norm: Norm) -> None:
    """Call the kernel that does most of what follows the adds; say why where none does anything."""
    tried: list[fx.Node] = []
    for kernel, arguments, modulation in _calls(site, run, norm):
        operands = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, fx.Node)]
        if site.depends(operands, {run.total}):
            site.refuse(run.total, f"{kernel} at {run.total.name}: its modulation is computed from the sum")
        elif site.takes(kernel, arguments, run.total):
            _put(site, kernel, arguments, run, modulation)
            break
        tried += operands
    for operand in tried:
        site.erase(operand)


def _calls(site: Site, run: Run, norm: Norm) -> Iterator[Call]:
    """Kernels and arguments, what does most first."""
    ways = modulations(norm.node)
    base: fx.Node | None = None
    gates = [_gates(run), []] if any(term.gate is not None for term in run.terms) else [[]]
    for gated, way in ((gated, way) for gated in gates for way in ways):
        values = [term.value if gated else term.whole for term in run.terms]
        tail = (norm.weight, norm.bias, way.scale, way.shift, norm.kind, norm.eps, norm.wide)
        if len(values) == 1 and not gated and set(run.total.users) <= norm.readers:
            yield SUM, (run.base, values[0], *tail), way
        base = _base(run) if base is None else base
        yield RUN, (base, values, gated, *tail), way


def _base(run: Run) -> fx.Node:
    """The stream before the adds, as a copy where it lies in memory otherwise than their sum, which lies as it does.

    A sum lies as its first operand, which may be what is added; what reads it then should find it as before.
    """
    if value_of(run.base).is_contiguous() or not value_of(run.total).is_contiguous():
        return run.base
    with run.total.graph.inserting_before(run.total):
        copy = run.total.graph.call_function(
            aten.clone.default, (run.base,), {"memory_format": torch.contiguous_format}
        )
    refresh_some([copy])
    return copy


def _gates(run: Run) -> list[fx.Node]:
    """A gate for every term: where some have one, the others have ones."""
    gates = []
    for term in run.terms:
        gate = term.gate
        if gate is None:
            channels = int(value_of(term.value).shape[-1])
            with run.total.graph.inserting_before(run.total):
                gate = run.total.graph.call_function(aten.new_ones.default, (term.value, [channels]))
            refresh_some([gate])
        gates.append(gate)
    return gates


def _put(site: Site, kernel: str, arguments: tuple[Any, ...], run: Run, modulation: Modulation) -> None:
    call = site.insert(kernel, arguments, run.total)
    if kernel == SUM:
        site.replace(modulation.last, call)
        return
    site.replace(run.total, site.item(call, 0))
    site.replace(modulation.last, site.item(call, 1))


def _run(site: Site, total: fx.Node) -> Run | None:
    """The residual adds that end in a value; None where they add nothing stored."""
    terms: list[Term] = []
    base = total
    while base is total or len(base.users) == 1:
        added = _added(site, base)
        if added is None:
            break
        base, term = added
        terms.insert(0, term)
    if not any(term.value in site.stored for term in terms):
        return None
    return Run(base, tuple(terms), total)


def _added(site: Site, node: fx.Node) -> tuple[fx.Node, Term] | None:
    """The stream and the term of which a node is the residual sum."""
    pair = binary(node, aten.add)
    if pair is None or pair[0] is pair[1] or not (alike(pair[0], node) and alike(pair[1], node)):
        return None
    terms = [_term(operand) for operand in pair]
    ranks = [(term.value in site.stored, term.gate is not None) for term in terms]
    place = 0 if ranks[0] >= ranks[1] else 1
    return pair[1 - place], terms[place]


def _term(node: fx.Node) -> Term:
    """A summand with its gate, a factor that is smaller than what it is multiplied with."""
    pair = binary(node, aten.mul)
    if pair is None or len(node.users) != 1:
        return Term(node, node)
    left, right = pair
    if alike(left, node) and not alike(right, node):
        return Term(node, left, right)
    if alike(right, node) and not alike(left, node):
        return Term(node, right, left)
    return Term(node, node)
