"""Values with a symbolic batch, computed at two batch sizes and joined."""

import operator
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx
from torch._higher_order_ops.wrap import wrap_with_autocast, wrap_with_set_grad_enabled
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from graphopt.batch import Batch, UnjoinableError
from graphopt.evaluation import Evaluator
from graphopt.wiring import submodule_of

_PLACE_OF_BODY: dict[Any, int] = {wrap_with_set_grad_enabled: 1, wrap_with_autocast: 4}
Pair = tuple[Any, Any]
"""A value at either batch."""


def refresh_at_two_points(graph_module: fx.GraphModule) -> None:
    """Write every node's `meta["val"]` anew from those of the placeholders.

    Raises:
        UnjoinableError: The graph has another symbol than one batch, or values that are no multiples of it.
        Exception: Whatever an operator raises.
    """
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    batch = _batch_of(node.meta["val"] for node in placeholders)
    evaluator = Evaluator()
    inputs = [batch.split(evaluator, node.meta["val"]) for node in placeholders]
    with evaluator, torch.no_grad():
        _TwoRuns(graph_module, batch, evaluator).run(inputs)


def call_at_two_points(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what an operator gives on values.

    Raises:
        UnjoinableError: There is another symbol than one batch, or the result is no multiple of it.
        Exception: Whatever the operator raises.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    batch = _batch_of(leaves)
    evaluator = Evaluator()
    pairs = [batch.split(evaluator, leaf) for leaf in leaves]
    with evaluator, torch.no_grad():
        results = []
        for side in range(2):
            one_args, one_kwargs = pytree.tree_unflatten([pair[side] for pair in pairs], spec)
            results.append(evaluator(function, one_args, one_kwargs))
            if not batch.is_symbolic:
                break
    return batch.join(results[0], results[-1])


def _batch_of(values: Iterable[Any]) -> Batch:
    """Return the batch whose symbol is in some values, one without a symbol where there is none."""
    modes, symbols = [], {}
    for value in values:
        if isinstance(value, FakeTensor):
            modes.append(value.fake_mode)
        sizes: Any = value.shape if isinstance(value, torch.Tensor) else (value,)
        for size in sizes:
            if isinstance(size, torch.SymInt):
                symbols.update(dict.fromkeys(size.node.expr.free_symbols, size))
    if len(symbols) > 1 or not modes or any(mode is not modes[0] for mode in modes):
        raise UnjoinableError(f"found the symbols {sorted(map(str, symbols))}, wanted one batch")
    for size in symbols.values():
        return Batch.of_size(modes[0], size)
    return Batch(1, modes[0])


class _TwoRuns:
    """Runs a graph at both batches, node by node, and joins what each node gives."""

    def __init__(self, graph_module: fx.GraphModule, batch: Batch, evaluator: Evaluator) -> None:
        self.graph_module = graph_module
        self.batch = batch
        self.evaluator = evaluator

    def run(self, inputs: list[Pair]) -> Pair:
        """Run the graph; return what it returns."""
        pairs: dict[fx.Node, Pair] = {}
        waiting = iter(inputs)
        for node in self.graph_module.graph.nodes:
            if node.op == "placeholder":
                pairs[node] = next(waiting)
            elif node.op == "output":
                return self._both(node.args[0], pairs)
            else:
                pairs[node] = self._get_attr(node) if node.op == "get_attr" else self._call(node, pairs)
            if not isinstance(pairs[node][0], fx.GraphModule):
                node.meta["val"] = self.batch.join(*pairs[node])
            node.meta.pop("tensor_meta", None)
        raise UnjoinableError("a graph ends without an output")

    def _both(self, arguments: Any, pairs: dict[fx.Node, Pair]) -> Pair:
        low = fx.map_arg(arguments, lambda node: pairs[node][0])
        return low, fx.map_arg(arguments, lambda node: pairs[node][1]) if self.batch.is_symbolic else low

    def _get_attr(self, node: fx.Node) -> Pair:
        value: Any = submodule_of(self.graph_module, node)
        if value is None:
            value = self.evaluator.shared_stand_in(operator.attrgetter(str(node.target))(self.graph_module))
        return value, value

    def _call(self, node: fx.Node, pairs: dict[fx.Node, Pair]) -> Pair:
        low, high = self._both((node.args, node.kwargs), pairs)
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self._region(node, low[0], high[0])
        first = self._one(node.target, *low)
        return first, self._one(node.target, *high) if self.batch.is_symbolic else first

    def _one(self, target: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(target, torch._ops.OpOverload):
            return self.evaluator(target, tuple(args), dict(kwargs))
        return target(*args, **kwargs)

    def _region(self, node: fx.Node, low: Any, high: Any) -> Pair:
        """Run the body of a region without gradients, or with other autocast."""
        place = _PLACE_OF_BODY.get(node.target)
        if place is None:
            raise UnjoinableError(f"{node.target} is not followed at two batches")
        settings, body = low[:place], low[place]
        autocast: Any = nullcontext()
        if place > 1:
            autocast = torch.autocast(settings[0], dtype=settings[1], enabled=settings[2], cache_enabled=settings[3])
        with autocast:
            return _TwoRuns(body, self.batch, self.evaluator).run(
                list(zip(low[place + 1 :], high[place + 1 :], strict=True))
            )
