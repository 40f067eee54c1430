"""Contractions by equation: equal letters are one dimension."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.rules.contraction import attention_roles, experts
from graphopt.dependency.terms import Dim
from graphopt.dependency.ties import Dims, Ties


@dataclass(frozen=True)
class Equation:
    """An einsum equation with one label a dimension; those of an ellipsis are counted from the right."""

    operands: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]

    @classmethod
    def read(cls, text: str, ranks: Sequence[int]) -> Equation:
        """Read an equation.

        Args:
            text: as ``torch.einsum`` takes it, with or without an output.
            ranks: number of dimensions of each operand.

        Raises:
            ValueError: if it does not fit the operands.
        """
        left, arrow, right = text.replace(" ", "").partition("->")
        terms = left.split(",")
        if len(terms) != len(ranks):
            raise ValueError(f"equation {text} for {len(ranks)} operands")
        operands = tuple(_labels(term, rank) for term, rank in zip(terms, ranks, strict=True))
        widest = max((_hidden(labels) for labels in operands), key=len)
        if arrow:
            return cls(operands, _labels(right, len(right.replace("...", "")) + len(widest) * ("..." in right)))
        counts = Counter(label for labels in operands for label in labels)
        return cls(operands, (*widest, *sorted(x for x, count in counts.items() if count == 1 and x.isalpha())))

    def holders(self, label: str) -> list[int]:
        """Operands that have a label."""
        return [position for position, labels in enumerate(self.operands) if label in labels]


def _labels(term: str, rank: int) -> tuple[str, ...]:
    front, dots, back = term.partition("...")
    count = rank - len(front) - len(back)
    if count < 0 or (count and not dots):
        raise ValueError(f"term {term} for {rank} dimensions")
    return (*front, *(str(place) for place in range(count, 0, -1)), *back)


def _hidden(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that an ellipsis stands for."""
    return tuple(label for label in labels if not label.isalpha())


def _tied(t: Ties, operands: Sequence[Dims], equation: Equation) -> dict[str, Dim]:
    """One dimension a label; those of size one broadcast."""
    table: dict[str, Dim] = {}
    for dims, labels in zip(operands, equation.operands, strict=True):
        for dim, label in zip(dims, labels, strict=True):
            if table.get(label):
                t.broadcast([table[label]], [dim])
            else:
                table[label] = dim
    return table


@coupling_rule(
    "aten.einsum.default",
    sample=Sample(
        lambda x, y, weight: torch.einsum("bnd,bmd,dk->bnmk", x, y, weight), ((3, 6), (4, 6)), {"weight": (6, 5)}
    ),
    zeros="product",
)
def einsum(t: Ties) -> Dims:
    """A sum of products over the labels that the output leaves out."""
    nodes: list[fx.Node] = list(t["tensors"])
    operands = [t.dims(node) for node in nodes]
    equation = Equation.read(t["equation"], [len(dims) for dims in operands])
    table = _tied(t, operands, equation)
    weights = [t.is_weight(node) for node in nodes]
    for labels, is_weight in zip(equation.operands, weights, strict=True):
        surviving = [label for label in labels if label in equation.output and is_weight]
        batch = [label for label in surviving if len(equation.holders(label)) > 1]
        experts(t, [table[label] for label in surviving], [table[label] for label in batch])
    summed = [label for label in table if label not in equation.output]
    for label in summed:
        _contract(t, nodes, equation, label)
        if all(weights) and len(equation.holders(label)) > 1:
            t.produce(table[label])
    activations = [set(labels) for labels, weight in zip(equation.operands, weights, strict=True) if not weight]
    if len(activations) == 2:
        given = [label for labels, weight in zip(equation.operands, weights, strict=True) if weight for label in labels]
        _roles(t, activations[0], activations[1], {*equation.output, *given}, table)
    return [t.resolve(table[label]) for label in equation.output]


def _contract(t: Ties, nodes: Sequence[fx.Node], equation: Equation, label: str) -> None:
    """The sum over a label needs a zero in one operand, or a mask on the first that holds it."""
    holder = equation.holders(label)[0]
    for axis, other in enumerate(equation.operands[holder]):
        if other == label:
            t.contract(nodes[holder], axis)


def _roles(t: Ties, first: set[str], second: set[str], elsewhere: set[str], table: dict[str, Dim]) -> None:
    """Two activations multiplied as matrices: rows and columns of their own, a batch of heads in common."""
    rows, columns, common = first - second, second - first, first & second
    if not rows or not columns:
        return
    for label in sorted(common - elsewhere):
        lead = [table[other] for other in sorted(common & elsewhere)]
        attention_roles(t, table[label], [table[other] for other in sorted(rows | columns)], lead)
