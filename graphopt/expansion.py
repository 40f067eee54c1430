"""Operators that no coupling rule knows, written in operators that have one, where torch says how."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._decomp import decomposition_table
from torch.fx.experimental.proxy_tensor import make_fx

from graphopt.aliasing import is_mutating
from graphopt.known import is_known
from graphopt.values import is_number, value_of

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
"""What decompositions raise on arguments they do not take; the operator then stays whole."""
_KEPT_META = ("stack_trace", "nn_module_stack", "source_fn_stack")


def expand_unknown(graph_module: fx.GraphModule) -> bool:
    """Replace, in place, every operator without a coupling rule by those that torch computes it from.

    An operator stays as it is where torch names no such operators, or one of them has no rule either.

    Args:
        graph_module: Every node carries its `meta["val"]`, and does so afterwards.

    Returns:
        Whether there was one.
    """
    found = False
    for node in list(graph_module.graph.nodes):
        if not isinstance(node.target, torch._ops.OpOverload) or is_known(node.target) or is_mutating(node.target):
            continue
        if is_number(node):
            continue
        parts = _parts(node)
        if parts is not None and all(_is_usable(part) for part in parts.nodes):
            _inline(node, parts)
            found = True
    return found


def _parts(node: fx.Node) -> fx.Graph | None:
    """Trace what an operator is computed from, None where torch does not say or the trace fails."""
    compute = _decomposition(node.target)
    if compute is None:
        return None
    operands = node.all_input_nodes

    def call(*values: Any) -> Any:
        table = dict(zip(operands, values, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), table.__getitem__)
        return compute(*args, **kwargs)

    try:
        return make_fx(call)(*map(value_of, operands)).graph
    except _REFUSALS:
        return None


def _decomposition(target: Any) -> Callable[..., Any] | None:
    if target.has_kernel_for_dispatch_key(_COMPOSITE):
        composite: Callable[..., Any] = target.decompose
        return composite
    found: Callable[..., Any] | None = decomposition_table.get(target)
    return found


def _is_usable(node: fx.Node) -> bool:
    """Tell whether a node of a decomposition needs no further rule: no constants of the trace, no unknown operators."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op != "call_function" or is_mutating(node.target):
        return False
    return is_number(node) or node.target is operator.getitem or is_known(node.target)


def _inline(node: fx.Node, parts: fx.Graph) -> None:
    """Put a decomposition in the place of its operator."""
    copies: dict[fx.Node, Any] = dict(zip(parts.find_nodes(op="placeholder"), node.all_input_nodes, strict=True))
    with node.graph.inserting_before(node):
        for part in [part for part in parts.nodes if part.op == "call_function"]:
            copies[part] = node.graph.node_copy(part, copies.__getitem__)
            copies[part].meta = {"val": part.meta["val"]} | {
                key: node.meta[key] for key in _KEPT_META if key in node.meta
            }
    results: Any = fx.map_arg(parts.output_node().args[0], copies.__getitem__)
    if isinstance(results, fx.Node):
        node.replace_all_uses_with(results)
    else:
        _replace_items(node, results)
    node.graph.erase_node(node)


def _replace_items(node: fx.Node, results: Sequence[fx.Node]) -> None:
    for item in list(node.users):
        position: Any = item.args[1]
        item.replace_all_uses_with(results[position])
        node.graph.erase_node(item)
