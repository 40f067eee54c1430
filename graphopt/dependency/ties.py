"""What a coupling rule sees of one operator, and what it may state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import fx

from graphopt.dependency.axes import Algebra
from graphopt.dependency.terms import Dim, Reason, Sum, all_frozen, concatenate, dim_size, same
from graphopt.wiring import node_line

Dims: TypeAlias = list[Dim]
Output: TypeAlias = "Sequence[Dim] | Sequence[Output] | None"
Path: TypeAlias = tuple[str, int | None]
Side: TypeAlias = tuple[fx.Node, int]


def concrete(value: object) -> int:
    """A size as a number: symbolic sizes stand for the example's value."""
    if isinstance(value, int):
        return value
    if isinstance(value, torch.SymInt):
        hint = value.node.hint
        return _assumed(value) if hint is None else int(hint)
    if isinstance(value, fx.Node):
        return concrete(value.meta.get("val"))
    raise TypeError(f"{value!r} is not a size")


UNBACKED_SIZE = 7919
"""Stands for a size that only the data tell; prime and large, so that nothing divides it or equals it by chance."""


def _assumed(size: torch.SymInt) -> int:
    """A size with unknowns in it, each of which counts as ``UNBACKED_SIZE``: what is their sum stays their sum."""
    known = size.node.shape_env.backed_var_to_val
    expression = size.node.expr
    number = expression.subs({symbol: known.get(symbol, UNBACKED_SIZE) for symbol in expression.free_symbols})
    return int(number) if number.is_integer else UNBACKED_SIZE


class Facts:
    """What the analysis finds out: one entry a node.

    Attributes:
        dims: the dimensions of every value; a list of them for nodes with several outputs.
        bakes: numbers in a node's arguments that are sizes of dimensions, by argument name and position.
        selects: nodes whose output is a table of positions; pruned, they are followed by a selection.
        spreads: operands that are read whole, in order: (operand, tensor dimension); pruned, zeros take the place of
            what went, and the result is selected from.
        contractions: dimensions that an operator sums over: (operand, tensor dimension, dim).
        pairs: which tensor dimension of one operand is summed over together with which of another.
        alone: contractions, as (operator, operand), in which a zero of another operand does not make a term zero.
        mixes: dimensions that an operator keeps, every index of which it computes from all.
        statistics: nodes that run a statistic, with the dimensions they run over.
        explicits: arguments left out whose default is derived from a dimension: (name, value, dim).
        divisors: dimensions whose kept size must stay a multiple of a number.
        regroup: whether groups that straddle a concatenation may change their members.
        spared: weights that the proof must not zero along some dimensions, since zero is no legal value there.
        guarded: activations, by the operator that reads them, where the proof must read one instead of zero.
        weights: nodes computed from parameters and constants alone.
        active: nodes computed from an input of the model.
        ties: how many ties each node stated that joined something.
    """

    def __init__(self) -> None:
        self.dims: dict[fx.Node, Any] = {}
        self.bakes: dict[fx.Node, dict[Path, Dim]] = {}
        self.selects: set[fx.Node] = set()
        self.spreads: dict[fx.Node, list[tuple[fx.Node, int]]] = {}
        self.contractions: dict[fx.Node, list[tuple[fx.Node, int, Dim]]] = {}
        self.pairs: dict[fx.Node, list[tuple[Side, Side]]] = {}
        self.alone: set[tuple[fx.Node, fx.Node]] = set()
        self.mixes: dict[fx.Node, list[Dim]] = {}
        self.statistics: dict[fx.Node, list[Dim]] = {}
        self.explicits: dict[fx.Node, list[tuple[str, float, Dim]]] = {}
        self.divisors: list[tuple[Dim, int]] = []
        self.regroup = False
        self.spared: dict[fx.Node, dict[int, Dim]] = {}
        self.guarded: dict[fx.Node, list[fx.Node]] = {}
        self.weights: set[fx.Node] = set()
        self.active: set[fx.Node] = set()
        self.ties: dict[fx.Node, int] = {}


class Ties:
    """One operator, seen by its coupling rule.

    Attributes:
        node: the operator's node.
        out_shape: shape of the output; a list of shapes where there are several.
    """

    def __init__(self, node: fx.Node, algebra: Algebra, facts: Facts, omit: int | None = None) -> None:
        self.node = node
        self._algebra = algebra
        self._facts = facts
        self._omit = omit
        self._arguments = named_arguments(node)

    # ------------------------------------------------------------- arguments

    def __getitem__(self, name: str) -> Any:
        """An argument by its schema name; the default where it was not given."""
        return self._arguments[name]

    def has(self, name: str) -> bool:
        """Whether an argument exists and is not None."""
        return self._arguments.get(name) is not None

    def names(self) -> list[str]:
        """Names of the operator's arguments."""
        return list(self._arguments)

    @staticmethod
    def sizes(dims: Sequence[Dim]) -> list[int]:
        """Sizes of dimensions."""
        return [dim_size(dim) for dim in dims]

    def dims(self, name: str | fx.Node) -> Dims:
        """The dimensions of a tensor argument, resolved."""
        node = self._arguments[name] if isinstance(name, str) else name
        return [self._algebra.resolve(dim) for dim in self._facts.dims[node]]

    def shape(self, name: str | fx.Node) -> tuple[int, ...]:
        """The shape of a tensor argument; symbolic sizes stand for the example's."""
        return tuple(dim_size(dim) for dim in self.dims(name))

    def numbers(self, name: str) -> list[int]:
        """A list-of-sizes argument as numbers."""
        value = self._arguments[name]
        return [concrete(item) for item in value] if isinstance(value, list | tuple) else [concrete(value)]

    def axis(self, name: str, rank: int, default: int = 0) -> int:
        """A dimension argument, counted from the front."""
        value = self._arguments.get(name, default)
        value = default if value is None else value
        return int(value) % rank if rank else 0

    def axes(self, name: str, rank: int) -> list[int]:
        """A list of dimensions counted from the front; every one where the argument is empty or None."""
        value = self._arguments.get(name)
        if value is None or (isinstance(value, list | tuple) and not value):
            return list(range(rank))
        values = value if isinstance(value, list | tuple) else [value]
        return sorted(int(item) % rank for item in values) if rank else []

    def is_weight(self, name: str | fx.Node) -> bool:
        """Whether a tensor argument is computed from parameters and constants alone."""
        node = self._arguments[name] if isinstance(name, str) else name
        return node in self._facts.weights

    def depends_on_input(self, name: str | fx.Node) -> bool:
        """Whether a tensor argument is computed from an input of the model."""
        node = self._arguments[name] if isinstance(name, str) else name
        return node in self._facts.active

    def is_tensor(self, item: object) -> bool:
        """Whether an argument is a node that holds a tensor."""
        return (
            isinstance(item, fx.Node)
            and isinstance(item.meta.get("val"), torch.Tensor | None)
            and (item in self._facts.dims)
        )

    def tensors(self) -> list[fx.Node]:
        """Every tensor operand, in order, each once."""
        return [item for item in self.node.all_input_nodes if self.is_tensor(item)]

    @property
    def out_shape(self) -> Any:
        """Shape of the output; a list of shapes where there are several."""
        return shape_of(self.node.meta.get("val"))

    # ---------------------------------------------------------------- ties

    def tie(self, first: Dim, second: Dim) -> None:
        """State that two dimensions are the same."""
        first, second = self._algebra.resolve(first), self._algebra.resolve(second)
        if same(first, second) or (all_frozen(first) and all_frozen(second)):
            return
        count = self._facts.ties.get(self.node, 0)
        self._facts.ties[self.node] = count + 1
        if count != self._omit:
            self._algebra.unify(first, second)

    def split(self, dim: Dim, inner: int) -> tuple[Dim, Dim]:
        """Read a dimension as ``outer x inner``."""
        return self._algebra.split(dim, inner)

    def cut(self, dim: Dim, position: int) -> tuple[Dim, Dim]:
        """Cut a dimension before ``position`` into two, neither of which may be empty."""
        return self._algebra.cut(dim, position)

    def resolve(self, dim: Dim) -> Dim:
        """The dimension with all links followed."""
        return self._algebra.resolve(dim)

    def fresh(self, size: int) -> Dim:
        """A new free dimension."""
        return self._algebra.fresh(size)

    def frozen(self, size: int, reason: str) -> Dim:
        """A new dimension that cannot be pruned."""
        return self._algebra.fresh(size, self.reason(reason))

    def freeze(self, dim: Dim, reason: str) -> None:
        """Freeze every axis in a dimension."""
        self._algebra.freeze(dim, self.reason(reason))

    def mark(self, dim: Dim, mark: str) -> None:
        """Put a mark on every axis in a dimension."""
        self._algebra.mark(dim, mark)

    def produce(self, dim: Dim, kind: str = "hidden") -> None:
        """State that a parameter produces this dimension, so that its axes may be offered."""
        self._algebra.mark(dim, "produced")
        self._algebra.mark(dim, f"produced-{kind}")

    def statistic(self, dims: Sequence[Dim]) -> None:
        """State that the operator runs a statistic over these dimensions."""
        self._facts.statistics.setdefault(self.node, []).extend(dims)
        for dim in dims:
            self._algebra.mark(dim, "statistic")

    def contract(
        self,
        operand: str | fx.Node,
        axis: int,
        other: tuple[str | fx.Node, int] | None = None,
        *,
        alone: bool = False,
    ) -> None:
        """State that the operator sums over a dimension of this operand, which something must be zero on.

        Args:
            operand: the operand.
            axis: its tensor dimension.
            other: the operand and tensor dimension that it is multiplied with, where there is one.
            alone: this operand itself must be zero, as in a sum of squares or of differences.
        """
        node = self._node(operand)
        if alone:
            self._facts.alone.add((self.node, node))
        self._facts.contractions.setdefault(self.node, []).append((node, axis, self.dims(node)[axis]))
        if other is not None:
            self._facts.pairs.setdefault(self.node, []).append(((node, axis), (self._node(other[0]), other[1])))

    def spread(self, operand: str, axis: int) -> None:
        """State that windows run over a dimension of this operand and of the output, of which the order matters.

        Pruned, the operand is spread out again, with zeros for what went, and the kept positions of the result are
        taken: the same as with the members of what went zeroed.

        Args:
            operand: the operand.
            axis: the tensor dimension, of the operand and of the output.
        """
        self._facts.spreads.setdefault(self.node, []).append((self._node(operand), axis))
        self.contract(operand, axis)
        self.mix([self.dims(operand)[axis]])

    def mix(self, dims: Sequence[Dim]) -> None:
        """State that the operator keeps these dimensions and computes every index of them from all, as a recurrence."""
        self._facts.mixes.setdefault(self.node, []).extend(dims)

    def _node(self, operand: str | fx.Node) -> fx.Node:
        node: fx.Node = self._arguments[operand] if isinstance(operand, str) else operand
        return node

    def straddles(self, dim: Dim, inner: int) -> bool:
        """Whether parts of a concatenation end inside a block of ``inner``, and regrouping is allowed."""
        parts = dim[0].parts if len(dim) == 1 and isinstance(dim[0], Sum) else ()
        return self._facts.regroup and any(dim_size(part) % inner for part in parts)

    def divisible(self, dim: Dim, number: int) -> None:
        """State that the kept size of a dimension must be a multiple of a number."""
        self._facts.divisors.append((dim, number))

    def spare(self, name: str, axes: Sequence[int] | None = None) -> None:
        """State that the proof must not zero this operand along some tensor dimensions, all by default: a divisor."""
        operand = self._arguments[name]
        if operand in self._facts.weights:
            dims = dict(enumerate(self.dims(name)))
            self._facts.spared.setdefault(operand, {}).update(
                dims if axes is None else {axis: dims[axis] for axis in axes}
            )
        else:
            self._facts.guarded.setdefault(self.node, []).append(operand)

    def units(self, count: int) -> Dim:
        """A dimension of ``count`` positions that are told apart and cannot go."""
        return concatenate([()] * count)

    def concatenate(self, parts: Sequence[Dim]) -> Dim:
        """The dimension that holds the parts one after the other."""
        return self._algebra.resolve(concatenate(parts))

    def bake(self, name: str, dims: Dim | Sequence[Dim]) -> None:
        """State that a number in the arguments is the size of a dimension, or a list the sizes of several."""
        entry = self._facts.bakes.setdefault(self.node, {})
        if isinstance(dims, list):
            entry.update({(name, position): dim for position, dim in enumerate(dims)})
        elif isinstance(dims, tuple):
            entry[name, None] = dims

    def explicit(self, name: str, value: float, dim: Dim) -> None:
        """State that a missing argument is derived from the size of a dimension: written out when that changes."""
        self._facts.explicits.setdefault(self.node, []).append((name, value, dim))

    def select(self) -> None:
        """State that the output is a table of positions: pruned, it is computed whole and then selected from."""
        self._facts.selects.add(self.node)

    def reason(self, text: str) -> Reason:
        """A reason that names this operator and the user's line."""
        return Reason(text, str(self.node.target), node_line(self.node))

    # ------------------------------------------------------- shared patterns

    def broadcast(self, *operands: Dims) -> Dims:
        """Tie the operands' dimensions aligned from the right; size one broadcasts and ties nothing."""
        rank = max(len(dims) for dims in operands)
        out: Dims = []
        for position in range(-rank, 0):
            here = [dims[position] for dims in operands if len(dims) >= -position and dims[position]]
            for other in here[1:]:
                self.tie(here[0], other)
            out.append(self.resolve(here[0]) if here else ())
        return out

    def regroup(self, dims: Dims, shape: Sequence[int]) -> Dims:
        """Dimensions of a reshape in row-major order; only blocks whose products match touch each other."""
        sizes = [dim_size(dim) for dim in dims]
        out: Dims = []
        taken, given = 0, 0
        while given < len(shape):
            start, first = taken, given
            have, want = 1, shape[given]
            given += 1
            while have != want:
                if have < want:
                    have *= sizes[taken]
                    taken += 1
                else:
                    want *= shape[given]
                    given += 1
            out.extend(self._block(dims[start:taken], shape[first:given]))
        return out

    def _block(self, dims: Dims, shape: Sequence[int]) -> Dims:
        flat: Dim = tuple(factor for dim in dims for factor in self.resolve(dim))
        out: Dims = []
        for size in reversed(shape[1:]):
            flat, inner = self.split(flat, size)
            out.append(inner)
        out.append(flat)
        return [self.resolve(dim) for dim in reversed(out)]

    def reduce(self, dims: Dims, axes: Sequence[int], *, keepdim: bool) -> Dims:
        """The dimensions that a reduction over ``axes`` leaves."""
        if keepdim:
            return [() if position in axes else dim for position, dim in enumerate(dims)]
        return [dim for position, dim in enumerate(dims) if position not in axes]


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of a call by their schema names, defaults included; positional names ``0, 1, ...`` without a schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{str(position): value for position, value in enumerate(node.args)}, **node.kwargs}
    out: dict[str, Any] = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(node.args):
            out[argument.name] = node.args[position]
        else:
            out[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return out


def shape_of(value: object) -> Any:
    """Shape of a tensor as numbers; nested lists for nested outputs, None for what is no tensor."""
    if isinstance(value, torch.Tensor):
        return tuple(concrete(size) for size in value.shape)
    if isinstance(value, list | tuple):
        return [shape_of(item) for item in value]
    return None
