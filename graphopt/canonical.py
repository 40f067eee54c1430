"""One form for graphs that compute the same: nothing without effect, explicit dimensions, few writes in place."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from graphopt.aliasing import Aliases, is_mutating, same_view, written
from graphopt.arguments import arguments_of, operand_of, packet_of
from graphopt.assembly import drop_code
from graphopt.expansion import expand_unknown
from graphopt.functional import make_functional
from graphopt.renaming import rename
from graphopt.strided import write_strided_views
from graphopt.values import refresh_some, value_of
from graphopt.wiring import submodule_of

aten = torch.ops.aten

CHECKS = {
    aten._assert_tensor_metadata,
    aten._assert_scalar,
    aten._assert_async,
    aten._functional_assert_async,
    aten._functional_assert_scalar,
    aten.sym_constrain_range,
    aten.sym_constrain_range_for_size,
}
DROPOUTS = {
    aten.dropout,
    aten.dropout_,
    aten.feature_dropout,
    aten.feature_dropout_,
    aten.alpha_dropout,
    aten.alpha_dropout_,
    aten.feature_alpha_dropout,
    aten.feature_alpha_dropout_,
}
DETACHES = {aten.detach, aten.detach_}


def canonicalise(graph_module: fx.GraphModule) -> None:
    """Rewrite a graph in place to its canonical form; outputs stay the same bit for bit.

    Checks, dropout in inference form and operators that return their own input go. An operator without a coupling
    rule is written in those that torch computes it from, where all of them have one. `view` becomes `reshape`,
    `squeeze` names its dimensions, `chunk` and its kin become `split_with_sizes`, `narrow` becomes `slice`, a view by
    strides becomes one by dimensions, a maximum whose position nobody reads becomes `amax`, a cast that stays on its
    device becomes `to.dtype`. A write in place becomes an ordinary operator where no other reader could tell.
    Bodies of higher-order operators are treated alike.

    Args:
        graph_module: Every node carries its `meta["val"]`, and does so afterwards.
    """
    for body in _bodies(graph_module):
        canonicalise(body)
    _drop_checks(graph_module.graph)
    _part_literals(graph_module)
    _drop_dropouts(graph_module)
    write_strided_views(graph_module)
    _simplify(graph_module.graph)
    if expand_unknown(graph_module):
        _simplify(graph_module.graph)
    make_functional(graph_module)
    _drop_copies(graph_module)
    if not eliminate_dead_code(graph_module):
        drop_code(graph_module)


def _simplify(graph: fx.Graph) -> None:
    """Rename operators, and let the readers of one that returns its input read that."""
    for node in graph.nodes:
        rename(node)
    _drop_identities(graph)


def eliminate_dead_code(graph_module: fx.GraphModule) -> bool:
    """Remove every node that no output needs and that writes to nothing; tell whether there was one.

    `torch.fx` by itself keeps dropout, attention and checks, which its tables call impure.
    """
    for body in _bodies(graph_module):
        eliminate_dead_code(body)
    found = graph_module.graph.eliminate_dead_code(lambda node: _has_effect(graph_module, node))
    used = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    for name, child in list(graph_module.named_children()):
        if isinstance(child, fx.GraphModule) and name not in used:
            graph_module.delete_submodule(name)
    if found:
        drop_code(graph_module)
    return bool(found)


def _bodies(graph_module: fx.GraphModule) -> list[fx.GraphModule]:
    found = (submodule_of(graph_module, node) for node in graph_module.graph.nodes)
    return [body for body in found if body is not None]


def _has_effect(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op in ("placeholder", "output") or packet_of(node) in CHECKS:
        return True
    return is_mutating(node.target) or (node.op == "call_function" and any(written(graph_module, node)))


def _drop_checks(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        if packet_of(node) in CHECKS and not node.users and not _constrains_data(node):
            graph.erase_node(node)


def _constrains_data(node: fx.Node) -> bool:
    """Tell whether a check speaks about a number that only the data decide, such as how many entries are nonzero."""
    numbers = [value_of(operand) for operand in node.all_input_nodes]
    return any(isinstance(number, torch.SymInt | torch.SymBool) and free_unbacked_symbols(number) for number in numbers)


def _part_literals(graph_module: fx.GraphModule) -> None:
    """Let the copy of a literal lie in memory of its own, as it really does; while traced it is the literal itself."""
    aliases = Aliases(graph_module)
    for node in graph_module.graph.nodes:
        if packet_of(node) is aten.lift_fresh_copy:
            refresh_some(holder for holder in aliases.holders(node) if aliases.order[holder] >= aliases.order[node])


def _drop_dropouts(graph_module: fx.GraphModule) -> None:
    """Let the readers of a dropout in inference form read its input, and lie in that input's memory as they really do.

    The fake value of such a dropout is a copy; the operator itself returns its input.
    """
    aliases = Aliases(graph_module)
    for node in list(graph_module.graph.nodes):
        if packet_of(node) not in DROPOUTS or (arguments_of(node)["train"] and arguments_of(node)["p"] > 0):
            continue
        _bypass(aliases, node)


def _bypass(aliases: Aliases, node: fx.Node) -> None:
    """Let the readers of a node read its input, and views of its result lie where they then do."""
    followers = [holder for holder in aliases.holders(node) if aliases.order[holder] > aliases.order[node]]
    node.replace_all_uses_with(operand_of(node))
    node.graph.erase_node(node)
    refresh_some(followers)


def _drop_identities(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and _is_identity(node, source):
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _is_identity(node: fx.Node, source: fx.Node) -> bool:
    packet = packet_of(node)
    if packet is None or packet in DETACHES:
        return False
    if is_mutating(node.target) and not (packet in DROPOUTS and not arguments_of(node)["train"]):
        return False
    return packet is aten.alias or same_view(value_of(node), value_of(source))


def _drop_copies(graph_module: fx.GraphModule) -> None:
    aliases = Aliases(graph_module)
    for node in list(graph_module.graph.nodes):
        drop = _COPIES.get(packet_of(node))
        if drop is None or not drop(graph_module, node) or aliases.is_written(node) or aliases.is_written(node.args[0]):
            continue
        _bypass(aliases, node)


def _always(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return True


def _reads_constant(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    source = operand_of(node)
    return bool(source.op == "get_attr" and source.target in dict(graph_module.named_buffers(remove_duplicate=False)))


def _is_reshaped(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return bool(node.users) and all(packet_of(user) is aten.reshape for user in node.users)


_COPIES: dict[Any, Callable[[fx.GraphModule, fx.Node], bool]] = {
    aten.lift_fresh_copy: _always,
    aten.detach: _reads_constant,
    aten.detach_: _reads_constant,
    aten.contiguous: _is_reshaped,
}
