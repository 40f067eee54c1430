"""Why a graph is handed on as it is: rewriting it might change more than its speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.aliasing import Aliases
from graphopt.arguments import arguments_of, packet_of
from graphopt.backend.arrival import Arrival, Kind, is_plain
from graphopt.canonical import DROPOUTS
from graphopt.program import Program
from graphopt.wiring import node_line

aten = torch.ops.aten

TRAINED_NORMS = {aten.batch_norm: ("training", "running_mean"), aten.instance_norm: ("use_input_stats", "running_mean")}
"""Norms that write to their running statistics without saying so, and when they do."""


def needs_gradients(graph_module: fx.GraphModule, args: Sequence[Any]) -> bool:
    """Tell whether autograd may want to go through a graph: whether one of its outputs asks for gradients.

    Args:
        graph_module: The graph.
        args: One argument for each placeholder.
    """
    outputs = [node.meta.get("example_value") for node in graph_module.graph.output_node().all_input_nodes]
    if any(value is None for value in outputs):
        return torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
    return any(isinstance(value, Tensor) and value.requires_grad for value in outputs)


def refused_arguments(arrival: Arrival, args: Sequence[Any]) -> str | None:
    """Return why nothing can be told from these arguments, None where something can.

    Args:
        arrival: The graph.
        args: One argument for each placeholder.
    """
    tensors = arrival.pick(args, Kind.STATIC)
    if not tensors:
        return "it reads no parameter or buffer"
    for name, tensor in [*tensors.items(), *arrival.pick(args, Kind.TENSOR).items()]:
        if not is_plain(tensor):
            device = " on the meta device" if isinstance(tensor, Tensor) and tensor.is_meta else ""
            return f"{name} is a {type(tensor).__name__}{device}, not a plain tensor"
    inference = next((name for name, tensor in tensors.items() if tensor.is_inference()), None)
    if inference is not None:
        return f"{inference} was made under inference_mode, where writes to tensors are not counted"
    return None


def refused_program(program: Program) -> str | None:
    """Return why a converted graph must stay as it is, None where it need not."""
    nodes = list(program.nodes())
    reason = next(chain(_strangers(nodes), _random(nodes), _hidden_writes(nodes)), None)
    if reason is not None:
        return reason
    aliases = Aliases(program.graph_module)
    outside = [node for node in program.graph_module.graph.nodes if node.op in ("placeholder", "get_attr")]
    written = next((node for node in outside if aliases.is_written(node)), None)
    return None if written is None else f"it writes to {written.target}"


def _strangers(nodes: Sequence[fx.Node]) -> Iterator[str]:
    """Yield calls of anything but operators."""
    known = torch._ops.OpOverload | torch._ops.HigherOrderOperator
    for node in nodes:
        operator = isinstance(node.target, known) or getattr(node.target, "__module__", "") in ("_operator", "math")
        if node.op in ("call_function", "call_method", "call_module") and not operator:
            yield f"it calls {node.target}{_place(node)}, which is no operator"


def _random(nodes: Sequence[fx.Node]) -> Iterator[str]:
    """Yield operators that draw random numbers."""
    for node in nodes:
        seeded = isinstance(node.target, torch._ops.OpOverload) and (
            torch.Tag.nondeterministic_seeded in node.target.tags or packet_of(node) in DROPOUTS
        )
        if seeded and not _is_settled(node):
            yield f"{node.name} draws random numbers{_place(node)}"


def _is_settled(node: fx.Node) -> bool:
    """Tell whether an operator that may draw random numbers was told not to."""
    arguments = arguments_of(node)
    if "dropout_p" in arguments:
        return bool(arguments["dropout_p"] == 0)
    if {"p", "train"} <= arguments.keys():
        return not arguments["train"] or arguments["p"] == 0
    return arguments.get("training") is False or arguments.get("train") is False


def _hidden_writes(nodes: Sequence[fx.Node]) -> Iterator[str]:
    """Yield norms that are training, and write to a buffer that their schema does not name."""
    for node in nodes:
        switch, statistics = TRAINED_NORMS.get(packet_of(node), ("", ""))
        if switch and arguments_of(node)[switch] and arguments_of(node)[statistics] is not None:
            yield f"{node.name} updates its running statistics{_place(node)}"


def _place(node: fx.Node) -> str:
    where = node_line(node)
    return f" at {where}" if where else ""
