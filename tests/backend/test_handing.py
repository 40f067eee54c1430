"""What is handed on is taken by inner backends for a graph of torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backend.models import image, masked
from torch._dynamo.backends.common import aot_autograd

import graphopt
from graphopt.backend.arrival import read_arrival
from graphopt.backend.conversion import convert
from graphopt.backend.handing import compile_later, hand_on


def handed(args: list[Any], graph_module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    arrival = read_arrival(graph_module)
    original = convert(arrival, args)
    context = graphopt.PassContext(verify=False)
    return hand_on(arrival, graphopt.Pipeline("remove-dead").run(original, context).program, original)


@torch.no_grad()
def test_placeholders_marks_and_own_tensors() -> None:
    seen: list[tuple[torch.fx.GraphModule, torch.fx.GraphModule]] = []

    def look(graph_module: torch.fx.GraphModule, args: list[Any]) -> Any:
        seen.append((graph_module, handed(args, graph_module)))
        return graph_module.forward

    torch.compile(masked(), backend=look)(image())
    [(before, after)] = seen
    inputs = [graph.graph.find_nodes(op="placeholder") for graph in (before, after)]
    assert [node.name for node in inputs[0]] == [node.name for node in inputs[1]]
    assert [node._dynamo_source for node in inputs[0]] == [node._dynamo_source for node in inputs[1]]
    assert after.meta["dynamo_compile_id"] == before.meta["dynamo_compile_id"]
    assert not any("val" in node.meta for node in after.graph.nodes if node.op == "call_function")
    assert set(dict(after.named_buffers())) <= set(after._param_name_to_source)
    read = {place.name for place in read_arrival(after).places if place.node.users}
    assert read == {"image", "second.bias", "head.weight", "head.bias"}
    assert sorted(tuple(tensor.shape) for tensor in after.buffers()) == [(4,)] * 5 + [(4, 3, 3, 3), (6, 4, 3, 3)]


@torch.no_grad()
def test_aot_autograd_knows_the_graphs_own_tensors() -> None:
    """It refuses a graph of torch.compile with a tensor whose source nobody told it."""
    inner = aot_autograd(fw_compiler=lambda graph_module, _: graph_module.forward)

    def marked(graph_module: torch.fx.GraphModule, args: list[Any]) -> Any:
        return inner(handed(args, graph_module), args)

    def unmarked(graph_module: torch.fx.GraphModule, args: list[Any]) -> Any:
        rewritten = handed(args, graph_module)
        rewritten._param_name_to_source = graph_module._param_name_to_source
        return inner(rewritten, args)

    model = masked()
    torch.testing.assert_close(torch.compile(model, backend=marked)(image()), model(image()), rtol=1e-6, atol=1e-6)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="not found in param_name_to_source"):
        torch.compile(model, backend=unmarked)(image())


@torch.no_grad()
def test_code_written_while_torch_compile_is_at_work_compiles_later() -> None:
    kept: list[torch.fx.GraphModule] = []
    compiled: list[torch.fx.GraphModule] = []

    def look(graph_module: torch.fx.GraphModule, args: list[Any]) -> Any:
        kept.append(handed(args, graph_module))
        kept[0](*args)
        return graph_module.forward

    def inner(graph_module: torch.fx.GraphModule, args: list[Any]) -> Any:
        compiled.append(graph_module)
        return graph_module.forward

    model = masked()
    torch.compile(model, backend=look)(image())
    tensors = {"image": image(), **dict(model.named_parameters()), **dict(model.named_buffers())}
    args = [tensors[place.name] for place in read_arrival(kept[0]).places]
    [found] = compile_later(kept[0], inner)(*args)
    torch.testing.assert_close(found, model(image()), rtol=1e-6, atol=1e-6)
    assert len(compiled) == 1
