"""Fresh `node.meta["val"]` on the nodes of a graph, by running them on fake tensors."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from graphopt.capture_failure import Attempt
from graphopt.preparation import quiet
from graphopt.two_points import call_at_two_points, refresh_at_two_points

STALE = ("tensor_meta", "from_node")


class Refresh(fx.Interpreter):
    """Run a graph on fake tensors and write what every node gives into its `meta["val"]`.

    Bodies of higher-order operators are refreshed too.
    """

    def __init__(self, graph_module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(graph_module)
        self.mode = mode

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and keep its value; a Parameter is kept detached."""
        result = super().run_node(n)
        if n.op != "output" and not isinstance(result, fx.GraphModule):
            n.meta["val"] = result.detach() if isinstance(result, nn.Parameter) else result
        for key in STALE:
            n.meta.pop(key, None)
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a body as it is, and a tensor as a fake one of fixed sizes."""
        value = super().get_attr(target, args, kwargs)
        if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor):
            return self.mode.from_tensor(value, static_shapes=True)
        return value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator; a body among its arguments is run by another refresh."""
        args = tuple(self._runner(arg) if isinstance(arg, fx.GraphModule) else arg for arg in args)
        return super().call_function(target, args, kwargs)

    def _runner(self, body: fx.GraphModule) -> Callable[..., Any]:
        return lambda *operands: Refresh(body, self.mode).run(*operands)


def refresh_values(graph_module: fx.GraphModule) -> None:
    """Write every node's `meta["val"]` anew, starting from what the placeholders' `meta["val"]` say.

    Sizes that were symbolic there stay so, under the same symbols.

    Args:
        graph_module: Placeholders carry fake tensors, numbers or None; the rest may carry anything or nothing.
    """
    with Attempt() as attempt, quiet():
        refresh_at_two_points(graph_module)
    if attempt.failure is None:
        return
    inputs = [node.meta["val"] for node in graph_module.graph.nodes if node.op == "placeholder"]
    mode = fake_mode_of(inputs)
    with mode, torch.no_grad(), enable_python_dispatcher():
        Refresh(graph_module, mode).run(*inputs, enable_io_processing=False)


def refresh_some(nodes: Iterable[fx.Node]) -> None:
    """Write `meta["val"]` of some operators anew, in the order given, from the values of their operands.

    A higher-order operator keeps its value.
    """
    for node in nodes:
        if node.op == "call_function" and not isinstance(node.target, torch._ops.HigherOrderOperator):
            node.meta["val"] = fake_call(node.target, node)


def fake_call(function: Any, node: fx.Node) -> Any:
    """Return what a function gives on the values of a node's operands."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), value_of)
    with Attempt():
        return call_at_two_points(function, args, kwargs)
    with fake_mode_of([args, kwargs]), torch.no_grad(), enable_python_dispatcher():
        return function(*args, **kwargs)


def value_of(node: Any) -> Any:
    """Return what a node gives on the example: a fake tensor, a symbolic or plain number, or a list of such."""
    return node.meta.get("val")


def fake_mode_of(values: Any) -> FakeTensorMode:
    """Return the mode of the first fake tensor among nested values, a new one where there is none."""
    for value in pytree.tree_leaves(values):
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode()


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors among nested values, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if type(value) in (list, tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def is_number(node: fx.Node) -> bool:
    """Tell whether a node computes a size or another plain number."""
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int | float | bool)


def is_symbolic(size: Any) -> bool:
    """Tell whether a size stands for more than one number."""
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number


def placeholder_value(leaf: Any, value: Any, known: list[Any]) -> Any:
    """Return the fake value of a placeholder for an example input.

    Args:
        leaf: The example input.
        value: What the placeholder's `meta["val"]` says so far; it is kept where it fits the leaf.
        known: Values of placeholders whose mode and batch symbol are to be used.
    """
    if not isinstance(leaf, torch.Tensor):
        return value if isinstance(value, torch.SymInt) else leaf
    mode = fake_mode_of(known)
    if isinstance(value, FakeTensor) and value.fake_mode is mode and _fits(leaf, value):
        return value
    batch = next((size for other in known for size in _symbols(other)), None)
    if leaf.ndim and batch is not None and leaf.shape[0] == batch.node.hint:
        with mode:
            return torch.empty((batch, *leaf.shape[1:]), dtype=leaf.dtype, device=leaf.device)
    return mode.from_tensor(leaf.detach(), static_shapes=True)


def _symbols(value: Any) -> list[Any]:
    sizes: Any = value.shape if isinstance(value, torch.Tensor) else ()
    return [size for size in sizes if is_symbolic(size)]


def _fits(leaf: torch.Tensor, value: torch.Tensor) -> bool:
    if leaf.ndim != value.ndim or leaf.dtype != value.dtype:
        return False
    return all(is_symbolic(size) or size == rows for size, rows in zip(value.shape, leaf.shape, strict=True))


def hint(size: Any) -> int:
    """Return a size as it is on the example; one that only the data decide counts as 1."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    return int(size.node.hint) if size.node.has_hint() else 1
