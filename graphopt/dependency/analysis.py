"""The walk over a program that states every operator's ties."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.capture_failure import summary
from graphopt.dependency.axes import Algebra
from graphopt.dependency.registry import find_rule
from graphopt.dependency.terms import Dim, Leaf, Reason, dim_size, leaves
from graphopt.dependency.ties import Facts, Ties, shape_of
from graphopt.errors import GraphoptError
from graphopt.program import Program
from graphopt.values import is_number
from graphopt.wiring import node_line

TensorKey = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def tensor_key(tensor: Tensor) -> TensorKey:
    """What makes two tensors the same: storage, offset, shape and stride (on meta too, where addresses are equal)."""
    storage = tensor.untyped_storage()
    return (storage._cdata, int(tensor.storage_offset()), tuple(tensor.shape), tuple(tensor.stride()))


@dataclass(frozen=True)
class Omission:
    """One tie that is left out on purpose: how the tests show that every tie matters."""

    node: str
    tie: int


@dataclass(eq=False)
class Analysis:
    """Dimensions of every value of a program, and what the rules state about them.

    Attributes:
        program: the analysed program.
        omission: a tie that is left out.
        regroup: whether groups that straddle a concatenation may change their members.
        algebra: the unknowns and how they are joined.
        facts: what the rules stated.
        parameter_dims: dimensions of every parameter and buffer.
        storages: storages of the parameters and buffers seen so far.
        failures: operators that froze their operands because no rule fits, with the reason.
        order: every node in the order of execution, bodies of higher-order operators entered.
        sources: placeholders of such bodies, and the operators themselves, with the value that they stand for.
    """

    program: Program
    omission: Omission | None = None
    regroup: bool = False
    algebra: Algebra = field(default_factory=Algebra)
    facts: Facts = field(default_factory=Facts)
    parameter_dims: dict[TensorKey, list[Dim]] = field(default_factory=dict)
    storages: set[int] = field(default_factory=set)
    failures: dict[fx.Node, Reason] = field(default_factory=dict)
    order: list[fx.Node] = field(default_factory=list)
    sources: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def run(self) -> Analysis:
        """State every tie of the program."""
        self.facts.regroup = self.regroup
        self._run_graph(self.program.graph_module, None)
        return self

    def tensor_dims(self, tensor: Tensor) -> list[Dim]:
        """Dimensions of a parameter or buffer, shared by all its uses."""
        key = tensor_key(tensor)
        if key not in self.parameter_dims:
            self.parameter_dims[key] = self._new_tensor_dims(tensor)
        return [self.algebra.resolve(dim) for dim in self.parameter_dims[key]]

    def _new_tensor_dims(self, tensor: Tensor) -> list[Dim]:
        reason = None
        if not tensor.is_floating_point() and not tensor.is_complex():
            reason = Reason(f"an axis of a table of {str(tensor.dtype).removeprefix('torch.')} values")
        elif tensor_key(tensor)[0] in self.storages:
            reason = Reason("a parameter whose storage is read in two layouts")
            self._freeze_storage(tensor, reason)
        self.storages.add(tensor_key(tensor)[0])
        return [self.algebra.fresh(int(size), reason) for size in tensor.shape]

    def _freeze_storage(self, tensor: Tensor, reason: Reason) -> None:
        for key, dims in self.parameter_dims.items():
            if key[0] == tensor_key(tensor)[0]:
                for dim in dims:
                    self.algebra.freeze(dim, reason)

    # ------------------------------------------------------------------ walk

    def _run_graph(self, module: fx.GraphModule, operands: list[Any] | None) -> Any:
        """Walk one graph; operands are the outer nodes that feed a submodule's placeholders."""
        feed = iter(operands) if operands is not None else None
        result = None
        for node in module.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, next(feed) if feed is not None else None)
            elif node.op == "get_attr":
                self._attribute(node, module)
            elif node.op == "output":
                result = node.args[0]
                if feed is None:
                    self._freeze_nodes(result, Reason("an output of the model"))
            else:
                self._call(node, module)
            self.order.append(node)
        return result

    def _placeholder(self, node: fx.Node, operand: Any) -> None:
        if isinstance(operand, fx.Node):
            if operand in self.facts.dims:
                self.facts.dims[node] = self.facts.dims[operand]
            self._inherit(node, [operand])
            self.sources[node] = operand
            return
        self.facts.active.add(node)
        reason = Reason("an input of the model")
        shape = shape_of(node.meta.get("val"))
        self.facts.dims[node] = self._fresh_like(shape, reason)

    def _attribute(self, node: fx.Node, module: fx.GraphModule) -> None:
        value = attribute(module, str(node.target))
        if isinstance(value, Tensor):
            self.facts.dims[node] = self.tensor_dims(value)
            self.facts.weights.add(node)

    def _call(self, node: fx.Node, module: fx.GraphModule) -> None:
        self._inherit(node, node.all_input_nodes)
        called = [item for item in node.all_input_nodes if is_submodule(item, module)]
        if called:
            self._enter(node, module, called)
            return
        if node.target is operator.getitem:
            self._getitem(node)
            return
        if is_number(node):
            return
        rule = find_rule(node.target)
        if rule is None:
            self._give_up(node, Reason("no coupling rule for this operator", str(node.target), node_line(node)))
            return
        omit = self.omission.tie if self.omission and self.omission.node == node.name else None
        ties = Ties(node, self.algebra, self.facts, omit)
        self.algebra.where = ties.reason("boundaries that do not nest")
        try:
            self.facts.dims[node] = rule.state(ties)
        except (ValueError, IndexError, TypeError, KeyError) as error:
            self._give_up(node, ties.reason(f"the coupling rule does not fit ({error})"))
            return
        except AttributeError as error:
            raise GraphoptError(
                f"the coupling rule of {rule.target} raises {summary(error)}; a rule is given a Ties and returns "
                "dimensions, as docs/rules.md tells"
            ) from error
        self._check_shape(node)

    def _inherit(self, node: fx.Node, sources: Sequence[fx.Node]) -> None:
        """A value of weights alone is a weight; a value of any input depends on the input."""
        if any(item in self.facts.active for item in sources):
            self.facts.active.add(node)
        tensors = [item for item in sources if item in self.facts.dims]
        if tensors and all(item in self.facts.weights for item in tensors):
            self.facts.weights.add(node)

    def _enter(self, node: fx.Node, module: fx.GraphModule, called: Sequence[fx.Node]) -> None:
        """Walk into the graph of a higher-order operator that calls one once, on the operands that follow it.

        Of any other, such as a loop or a choice, nothing is known.
        """
        inner = attribute(module, str(called[0].target))
        operands = list(node.args[node.args.index(called[0]) + 1 :]) if called[0] in node.args else []
        if len(called) > 1 or not _fits(inner, operands):
            self._give_up(node, Reason("an operator that calls graphs", str(node.target), node_line(node)))
            return
        result = self._run_graph(inner, operands)
        self.facts.dims[node] = self._gather(result)
        if isinstance(result, fx.Node):
            self.sources[node] = result

    def _gather(self, result: Any) -> Any:
        if isinstance(result, fx.Node):
            return self.facts.dims.get(result)
        if isinstance(result, list | tuple):
            return [self._gather(item) for item in result]
        return None

    def spread(self, node: fx.Node) -> frozenset[Leaf]:
        """The axes that an operator reads whole and in order, so that no index of its output is zero by itself."""
        dims = (self.facts.dims[operand][axis] for operand, axis in self.facts.spreads.get(node, ()))
        return frozenset(leaf for dim in dims for leaf in leaves(self.algebra.resolve(dim)))

    def _getitem(self, node: fx.Node) -> None:
        source, index = node.args[0], node.args[1]
        if isinstance(source, fx.Node) and isinstance(index, int):
            self.facts.dims[node] = self.facts.dims[source][index]

    def _give_up(self, node: fx.Node, reason: Reason) -> None:
        """Freeze what an operator touches; the analysis goes on with frozen outputs."""
        self.failures[node] = reason
        for name in ("bakes", "contractions", "mixes", "pairs", "spreads", "statistics"):
            getattr(self.facts, name).pop(node, None)
        self.facts.selects.discard(node)
        for item in node.all_input_nodes:
            self._freeze_dims(self.facts.dims.get(item), reason)
        self.facts.dims[node] = self._fresh_like(shape_of(node.meta.get("val")), reason)

    def _check_shape(self, node: fx.Node) -> None:
        """A rule whose result has another shape than the operator's is wrong: nothing of it is used."""
        found = sizes_of(self.facts.dims[node])
        wanted = shape_of(node.meta.get("val"))
        if wanted is not None and normalised(found) != normalised(wanted):
            reason = Reason(f"the coupling rule gave {found}, not {wanted}", str(node.target), node_line(node))
            self._freeze_dims(self.facts.dims[node], reason)
            self._give_up(node, reason)

    def _fresh_like(self, shape: Any, reason: Reason) -> Any:
        if isinstance(shape, tuple):
            return [self.algebra.fresh(size, reason) for size in shape]
        if isinstance(shape, list):
            return [self._fresh_like(item, reason) for item in shape]
        return []

    def _freeze_nodes(self, tree: Any, reason: Reason) -> None:
        for item in torch.utils._pytree.tree_leaves(tree):
            if isinstance(item, fx.Node):
                self._freeze_dims(self.facts.dims.get(item), reason)

    def _freeze_dims(self, dims: Any, reason: Reason) -> None:
        for item in dims or ():
            if isinstance(item, list):
                self._freeze_dims(item, reason)
            elif isinstance(item, tuple):
                self.algebra.freeze(item, reason)


def _fits(inner: fx.GraphModule, operands: Sequence[Any]) -> bool:
    """Whether operands are, one by one, what the placeholders of a graph stand for."""
    placeholders = inner.graph.find_nodes(op="placeholder")
    if len(placeholders) != len(operands) or any(isinstance(item, list | tuple | dict) for item in operands):
        return False
    pairs = zip(operands, placeholders, strict=True)
    return all(
        normalised(shape_of(outer.meta.get("val"))) == normalised(shape_of(node.meta.get("val")))
        for outer, node in pairs
        if isinstance(outer, fx.Node)
    )


def attribute(module: torch.nn.Module, target: str) -> Any:
    """The object that a get_attr node names."""
    return operator.attrgetter(target)(module)


def is_submodule(argument: Any, module: fx.GraphModule) -> bool:
    """Whether an argument is a get_attr of a graph, as higher-order operators take it."""
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return False
    return isinstance(attribute(module, str(argument.target)), fx.GraphModule)


def sizes_of(dims: Any) -> Any:
    """Sizes of dimensions, nested as they are."""
    if dims is None:
        return None
    if dims and any(isinstance(item, list) or item is None for item in dims):
        return [sizes_of(item) for item in dims]
    return tuple(dim_size(item) for item in dims)


def normalised(shape: Any) -> Any:
    """Shapes for comparison: the empty list of a scalar and of an empty tuple are the same."""
    if isinstance(shape, list):
        return [normalised(item) for item in shape] or ()
    return shape
