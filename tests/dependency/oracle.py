"""Coupling index by index: a union-find that runs a program's operators on tensors of labels.

Every index of every parameter dimension is an atom. A value holds for each of its elements the one atom with which the
element vanishes: ``FIXED`` where it never may, ``ANY`` where nothing is said. Operators that move elements are run on
these tensors as they are; the others unite atoms. Knows only what small models need.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.dependency.analysis import tensor_key
from graphopt.dependency.ties import named_arguments, shape_of
from graphopt.program import Program

aten = torch.ops.aten
Atom = tuple[str, int, int]
FIXED, ANY = 0, -1

MOVES = (
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.cat.default,
    aten.stack.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.split_with_sizes.default,
    aten.unsqueeze.default,
    aten.unflatten.int,
    aten.flatten.using_ints,
    aten.expand.default,
    aten.sym_size.int,
    operator.getitem,
    operator.mul,
    operator.floordiv,
)
ELEMENTWISE = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
UNARY = ("relu", "gelu", "silu", "sigmoid", "tanh", "neg", "mul.Scalar", "add.Scalar", "elu", "softplus", "exp")


class Oracle:
    """Classes of atoms that vanish together.

    Attributes:
        classes: every class as a set of atoms, without those that are fixed.
        fixed: atoms that never may go.
    """

    def __init__(self, program: Program) -> None:
        self._parents = [FIXED]
        self._atoms: dict[Atom, int] = {}
        self._tensors = program.parameters
        self._first: dict[object, str] = {}
        self._labels: dict[fx.Node, Any] = {}
        for node in program.nodes():
            self._labels[node] = self._visit(node)
        found: dict[int, set[Atom]] = {}
        for atom, number in self._atoms.items():
            found.setdefault(self._find(number), set()).add(atom)
        self.fixed = found.pop(FIXED, set())
        self.classes = list(found.values())

    # -------------------------------------------------------------- union-find

    def _find(self, number: int) -> int:
        while self._parents[number] != number:
            number = self._parents[number]
        return number

    def _unite(self, first: int, second: int) -> None:
        if ANY not in {first, second}:
            low, high = sorted((self._find(first), self._find(second)))
            self._parents[high] = low

    def _unite_all(self, first: Tensor, second: Tensor) -> None:
        pairs = torch.stack(torch.broadcast_tensors(first, second)).flatten(1).unique(dim=1)
        for one, other in pairs.t().tolist():
            self._unite(one, other)

    def _along(self, name: str, dim: int) -> Tensor:
        """Atoms of a parameter's dimension, shape (size,)."""
        tensor = self._tensors[name]
        name = self._first.setdefault(tensor_key(tensor), name)
        numbers = []
        for index in range(tensor.shape[dim]):
            atom = (name, dim, index)
            if atom not in self._atoms:
                self._atoms[atom] = len(self._parents)
                self._parents.append(len(self._parents))
            numbers.append(self._atoms[atom])
        return torch.tensor(numbers)

    # -------------------------------------------------------------------- walk

    def _visit(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return torch.full(shape_of(node.meta["val"]), FIXED)
        if node.op == "get_attr":
            return self._parameter(str(node.target))
        if node.op == "output":
            for item in node.all_input_nodes:
                self._unite_all(self._labels[item], torch.tensor(FIXED))
            return None
        if node.target in MOVES:
            return self._move(node)
        return self._rule(node)(node)

    def _parameter(self, name: str) -> Tensor:
        shape = self._tensors[name].shape
        long = [dim for dim, size in enumerate(shape) if size > 1]
        if len(long) != 1:
            return torch.full(shape, ANY)
        return self._along(name, long[0]).reshape(shape)

    def _move(self, node: fx.Node) -> Any:
        args = fx.node.map_arg(node.args, self._labels.__getitem__)
        return node.target(*args, **fx.node.map_arg(node.kwargs, self._labels.__getitem__))

    def _rule(self, node: fx.Node) -> Callable[[fx.Node], Tensor]:
        name = str(node.target)
        if node.target in ELEMENTWISE:
            return self._elementwise
        if any(name.startswith(f"aten.{unary}.") or name == f"aten.{unary}" for unary in UNARY):
            return lambda item: self._labels[item.args[0]]
        known: dict[Any, Callable[[fx.Node], Tensor]] = {
            aten.linear.default: self._linear,
            aten.conv2d.default: self._convolution,
            aten.layer_norm.default: lambda item: self._scaled(item, -1),
            aten.rms_norm.default: lambda item: self._scaled(item, -1),
            aten.batch_norm.default: lambda item: self._scaled(item, 1),
            aten.mean.dim: self._mean,
            aten.softmax.int: self._softmax,
            aten.matmul.default: self._matmul,
            aten.scaled_dot_product_attention.default: self._attention,
        }
        if node.target in known:
            return known[node.target]
        if any(self._says_something(item) for item in node.all_input_nodes):
            raise NotImplementedError(f"the oracle does not know {name}")
        return lambda item: torch.full(shape_of(item.meta["val"]), ANY)

    def _says_something(self, node: fx.Node) -> bool:
        labels = self._labels[node]
        return isinstance(labels, Tensor) and bool((labels != ANY).any())

    # ------------------------------------------------------------------- rules

    def _elementwise(self, node: fx.Node) -> Tensor:
        shape = shape_of(node.meta["val"])
        out = torch.full(shape, ANY)
        for item in node.args:
            if isinstance(item, fx.Node):
                labels = self._labels[item].expand(shape)
                self._unite_all(out, labels)
                out = torch.where(out == ANY, labels, out)
        return out

    def _weight(self, node: fx.Node, channels: int) -> Tensor:
        """Unite a map's input with its weight; the labels of its output channels."""
        arguments = named_arguments(node)
        name = str(arguments["weight"].target)
        labels = self._labels[node.args[0]].movedim(channels, -1)
        out = self._along(name, 0)
        self._unite_all(labels, self._along(name, 1) if arguments.get("groups", 1) == 1 else out)
        if arguments["bias"] is not None:
            self._unite_all(out, self._along(str(arguments["bias"].target), 0))
        return out if len(out) > 1 else torch.tensor([ANY])

    def _linear(self, node: fx.Node) -> Tensor:
        return self._weight(node, -1).expand(shape_of(node.meta["val"])).clone()

    def _convolution(self, node: fx.Node) -> Tensor:
        return self._weight(node, 1)[:, None, None].expand(shape_of(node.meta["val"])).clone()

    def _scaled(self, node: fx.Node, channels: int) -> Tensor:
        labels = self._labels[node.args[0]].movedim(channels, -1)
        for item in node.args[1:]:
            if isinstance(item, fx.Node):
                self._unite_all(labels, self._along(str(item.target), 0))
        return self._labels[node.args[0]]

    @staticmethod
    def _constant(labels: Tensor, dims: int | list[int], *, keepdim: bool = False) -> Tensor:
        """The labels where they do not change along dimensions, ANY elsewhere."""
        low, high = labels.amin(dims, keepdim=keepdim), labels.amax(dims, keepdim=keepdim)
        return torch.where(low == high, low, ANY)

    def _mean(self, node: fx.Node) -> Tensor:
        arguments = named_arguments(node)
        return self._constant(self._labels[node.args[0]], arguments["dim"], keepdim=arguments["keepdim"])

    def _softmax(self, node: fx.Node) -> Tensor:
        labels = self._labels[node.args[0]]
        varies = labels.amin(node.args[1], keepdim=True) != labels.amax(node.args[1], keepdim=True)
        self._unite_all(torch.where(varies, labels, ANY), torch.tensor(FIXED))
        return labels

    def _matmul(self, node: fx.Node) -> Tensor:
        left, right = (self._labels[item] for item in node.args)
        self._unite_all(left.unsqueeze(-1), right.unsqueeze(-3))
        row, column = self._constant(left, -1).unsqueeze(-1), self._constant(right, -2).unsqueeze(-2)
        out = torch.where(column == ANY, row, column)
        return out.expand(shape_of(node.meta["val"])).clone()

    def _attention(self, node: fx.Node) -> Tensor:
        query, key, value = (self._labels[item] for item in node.args[:3])
        self._unite_all(query.unsqueeze(-2), key.unsqueeze(-3))
        return self._constant(value, -2).unsqueeze(-2).expand(shape_of(node.meta["val"])).clone()
