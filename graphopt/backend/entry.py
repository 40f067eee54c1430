"""The function that torch.compile calls for ``backend="graphopt"``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from graphopt.backend.analysis import LOG
from graphopt.backend.arrival import Kind, read_arrival
from graphopt.backend.cached import active_session
from graphopt.backend.compiled import CompiledGraph, forget_all
from graphopt.backend.options import read_options
from graphopt.backend.refusals import needs_gradients
from graphopt.errors import GraphoptError


def graphopt_backend(
    graph_module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile a graph of torch.compile: what its weights make superfluous goes, the rest is handed on.

    Only exact rewrites are made by themselves. Where gradients are wanted the graph is handed on as it is.

    Args:
        graph_module: The graph; parameters and buffers are placeholders.
        example_inputs: One argument for each placeholder.
        options: See `BackendOptions`.
        mode: Refused; modes are inductor's own.

    Raises:
        SpecError: An option is wrong.
        GraphoptError: An option that asks for more than exact rewrites cannot be met.
    """
    chosen = read_options(options, mode)
    compile_graph: Callable[..., Any] = torch._dynamo.lookup_backend(chosen.inner)
    arrival = read_arrival(graph_module)
    gradients = needs_gradients(graph_module, example_inputs)
    if gradients and chosen.skip:
        raise GraphoptError("option skip is for models that run only, found one with gradients; call it under no_grad")
    if not gradients and (arrival.positions(Kind.STATIC) or chosen.explicit):
        return CompiledGraph(arrival, chosen, example_inputs, lambda graph: compile_graph(graph, example_inputs))
    LOG.debug("%s runs as it is: %s", arrival, "gradients are wanted" if gradients else "it reads no parameter")
    call = compile_graph(graph_module, example_inputs)
    return _outside_sessions(call) if gradients and chosen.cache is not None else call


def _outside_sessions(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call that is refused in a cache session."""

    def run(*args: Any) -> Any:
        if active_session() is not None:
            raise GraphoptError(
                "the compiled model was called with gradients inside a cache session, and what is read from a cache "
                "has none; call it under torch.no_grad()"
            )
        return call(*args)

    return run


# torch._dynamo.reset() calls this of every backend that has it.
graphopt_backend.__dict__["reset"] = forget_all
