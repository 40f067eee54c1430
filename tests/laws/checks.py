"""The laws on one random model."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.passes.channels.selection import Limits, select_axes
from graphopt.plan import Plan, make_plan
from graphopt.program import Program
from graphopt.proof.comparison import TOLERANCE, compare
from graphopt.proof.randomise import random_parameters
from graphopt.rewrite.replay import replay
from graphopt.rewrite.slicing import slice_axes, sliced_graph
from graphopt.tracing import capture

BATCH = 3
Kept = dict[str, tuple[int, ...]]


class Net(Protocol):
    """A random model; its repr is the code that makes it."""

    def model(self) -> nn.Module: ...

    def example(self, batch: int) -> Tensor: ...


@dataclass(frozen=True)
class Seen:
    """What was checked on one model."""

    axes: int
    without_effect: int
    frozen: int
    kinds: frozenset[str]
    dynamic: bool


def captured(net: Net) -> Program:
    return capture(net.model(), (net.example(BATCH),))


def some_kept(size: int, random: np.random.Generator) -> tuple[int, ...]:
    """At least one index stays and at least one goes."""
    count = int(random.integers(1, size))
    return tuple(sorted(int(index) for index in random.choice(size, count, replace=False)))


def outputs(program: Program, batch: int, net: Net) -> list[Tensor]:
    torch.manual_seed(batch)
    with torch.no_grad():
        out = program(net.example(batch))
    return [out] if isinstance(out, Tensor) else list(out)


def check(net: Net, seed: int = 0, *, fresh: bool = False, most: int | None = None) -> Seen:
    """Prove every axis alone and several together; replay the plan; run at two batch sizes.

    Args:
        net: the model.
        seed: seed of what is kept; where it is odd all axes are pruned together, else those that the pass selects.
        fresh: replay on a second capture of a model built anew.
        most: prove at most so many axes alone, chosen by the seed; every one by default.
    """
    program = captured(net)
    graph = DependencyGraph(program)
    failures = {node.name: str(reason) for node, reason in graph.analysis.failures.items()}
    assert failures == {}, f"{failures} in {net!r}"
    random = np.random.default_rng(seed)
    values = random_parameters(program.parameters, seed)
    idle = 0
    alone = list(graph.groups)
    if most is not None:
        alone = [alone[index] for index in random.permutation(len(alone))[:most]]
    for group in alone:
        kept = {group.id: some_kept(group.size, random)}
        idle += not prove(net, graph, replace(program, graph_module=sliced_graph(graph, kept)), kept, values)
    together = graph.groups if seed % 2 else select_axes(graph, Limits()).groups
    chosen = {group.id: some_kept(group.size, random) for group in together}
    if chosen:
        check_rewrite(net, graph, chosen, values, fresh=fresh)
    kinds = frozenset(group.kind for group in graph.groups)
    return Seen(len(graph.groups), idle, sum(axis.size > 1 for axis in graph.frozen), kinds, program.dynamic_batch)


def prove(net: Net, graph: DependencyGraph, rewritten: Program, kept: Kept, values: dict[str, Tensor]) -> bool:
    """Mask equals slice; False where the removal has no effect that could show anything."""
    found = compare(graph, rewritten, kept, values, (graph.program.args, graph.program.kwargs))
    if found.effect < 1e-12:
        return False
    assert found.error < TOLERANCE, f"{found} for {kept} in {net!r}"
    return True


def check_rewrite(net: Net, graph: DependencyGraph, kept: Kept, values: dict[str, Tensor], *, fresh: bool) -> None:
    """All laws on one rewrite of several axes."""
    program = graph.program
    rewritten = slice_axes(graph, kept)
    prove(net, graph, rewritten, kept, values)
    for batch in (BATCH, 2 * BATCH - 1) if program.dynamic_batch else (BATCH,):
        before, after = outputs(program, batch, net), outputs(rewritten, batch, net)
        assert [out.shape for out in before] == [out.shape for out in after], f"{kept} in {net!r}"
    plan = make_plan(graph, kept, ("test",))
    assert plan.kept == kept
    check_weights(net, plan, program, rewritten)
    read = Plan.from_json(plan.to_json())
    assert read == plan, f"JSON of {kept} in {net!r}"
    if not fresh:
        return
    again = replay(read, captured(net))
    for one, other in zip(outputs(rewritten, BATCH, net), outputs(again, BATCH, net), strict=True):
        assert torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)), f"replay of {kept} in {net!r}"


def check_weights(net: Net, plan: Plan, program: Program, rewritten: Program) -> None:
    """Every tensor is the slice that the plan tells, and the plan's tools agree."""
    sliced = plan.slice_state_dict(program.parameters)
    told = plan.parameters()
    for name, tensor in rewritten.parameters.items():
        if name not in sliced:
            continue
        assert torch.equal(tensor, sliced[name]), f"{name} under {plan.kept} in {net!r}"
        expected = program.parameters[name]
        for dim, indices in told.get(name, {}).items():
            expected = expected.index_select(dim, torch.tensor(indices))
        assert torch.equal(tensor, expected), f"{name} under {plan.kept} in {net!r}"
