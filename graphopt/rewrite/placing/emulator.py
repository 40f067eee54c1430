"""One process that computes what several devices compute together, step after step: the oracle of the runtime."""

from __future__ import annotations

import inspect
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.assembly import named_attributes
from graphopt.errors import PlanError
from graphopt.input_check import flat_like, template_of
from graphopt.program import Program
from graphopt.rewrite.placing.placed import Placed, Roles, site_of
from graphopt.stages import Delay, is_steady
from graphopt.wire import extrapolated, handed

Kept = Mapping[tuple[str, int], deque[Tensor]]
"""What is kept of earlier steps, by value and device, the latest last."""


class Emulator:
    """Runs placed graphs step by step, node by node, with what is late kept from earlier steps.

    It knows nothing of segments or messages, so that it can tell whether these compute the same.

    Args:
        stages: the placed graph of each phase. Values of one name are the same in all of them.
    """

    def __init__(self, stages: Mapping[str, Placed]) -> None:
        self._runs = {name: _Run(placed, steady=is_steady(name)) for name, placed in stages.items()}
        ages: dict[tuple[str, int], int] = {}
        for placed in stages.values():
            for delay in placed.delays:
                key = (delay.value, delay.device)
                ages[key] = max(ages.get(key, 0), delay.steps + 1)
        self._kept = {key: deque[Tensor](maxlen=length) for key, length in ages.items()}

    def reset(self) -> None:
        """Start a new generation."""
        for kept in self._kept.values():
            kept.clear()

    def run(self, phase: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Compute one step.

        Args:
            phase: name of the phase.
            args: positional inputs of the program.
            kwargs: keyword inputs of the program.

        Returns:
            What the program returns.

        Raises:
            PlanError: a late value is read of which no step before has kept any.
        """
        return self.run_flat(phase, flat_inputs(self._runs[phase].program, args, kwargs))

    def run_flat(self, phase: str, leaves: Sequence[Any]) -> Any:
        """Compute one step from the inputs leaf by leaf, in the order of the placeholders that are not late."""
        with torch.no_grad():
            output, fresh = self._runs[phase].step(leaves, self._kept)
        for key, value in fresh.items():
            self._kept[key].append(value)
        return output


def flat_inputs(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The inputs of a call in the order of the program's placeholders; extra ones that are not given are left out."""
    template = template_of(program.graph_module)
    bound = inspect.signature(program.graph_module.forward).bind_partial(*args, **kwargs)
    return flat_like(list(bound.arguments.values()), template[: len(bound.arguments)])


class _Run:
    """One placed graph, run node by node."""

    def __init__(self, placed: Placed, *, steady: bool) -> None:
        self.program = placed.program
        self._placed = placed
        self._graph = placed.program.graph_module.graph
        self._roles = Roles(placed.program.graph_module)
        self._attributes = {name: one.value for name, one in named_attributes(placed.program.graph_module).items()}
        names = {delay.name: delay for delay in placed.delays}
        delays = {node: names[node.name] for node in self._graph.nodes if node.name in names}
        self._late = {node: delay for node, delay in delays.items() if steady or node.op == "placeholder"}
        self._last = _last_uses(self._graph)

    def step(self, leaves: Sequence[Any], kept: Kept) -> tuple[Any, dict[tuple[str, int], Tensor]]:
        """Return what the program returns, and what is to be kept of this step."""
        given = iter(leaves)
        devices: dict[str, list[int]] = {}
        for value, device in kept:
            devices.setdefault(value, []).append(device)
        state = _State(self._placed, self._roles)
        fresh: dict[tuple[str, int], Tensor] = {}
        output: Any = None
        for node in self._graph.nodes:
            if node in self._late:
                state.known[node] = _late(self._late[node], kept)
            elif node.op == "placeholder":
                state.known[node] = next(given)
            elif node.op == "get_attr":
                state.known[node] = self._attributes[str(node.target)]
            elif node.op == "output":
                output = state.map(node.args[0], node, self._placed.sampler)
            else:
                args, kwargs = state.map((node.args, node.kwargs), node, state.device(node))
                state.known[node] = node.target(*args, **kwargs)
            for device in devices.get(node.name, ()):
                fresh[node.name, device] = state.read(node, device)
            for gone in self._last.get(node, ()):
                state.known.pop(gone, None)
        result = self._graph._codegen.process_outputs(output)
        return result if self._placed.returned is None else result[0], fresh


class _State:
    """Values of one step."""

    def __init__(self, placed: Placed, roles: Roles) -> None:
        self.known: dict[fx.Node, Any] = {}
        self._placed = placed
        self._roles = roles
        self._sent: dict[tuple[fx.Node, int], Tensor] = {}

    def device(self, node: fx.Node) -> int | None:
        """Where a node is computed; None where that is wherever it is read."""
        return None if node in self._roles.free else site_of(self._placed, node).device

    def map(self, arguments: Any, node: fx.Node, device: int | None) -> Any:
        """Arguments of a node with the values that its device reads."""
        read = {one: self.read(one, device) for one in node.all_input_nodes}
        return fx.map_arg(arguments, read.__getitem__)

    def read(self, node: fx.Node, device: int | None) -> Any:
        """A value as a device reads it: what another one computed arrives in memory of its own."""
        value = self.known[node]
        if device is None or not isinstance(value, Tensor) or self.device(node) in (None, device):
            return value
        if (node, device) not in self._sent:
            self._sent[node, device] = handed(value)
        return self._sent[node, device]


def _late(delay: Delay, kept: Kept) -> Tensor:
    history = kept[delay.value, delay.device]
    if len(history) < delay.steps:
        raise PlanError(
            f"nothing is kept of {delay.value} {delay.steps} steps ago, which {delay.name} reads on device "
            f"{delay.device}; run a synchronous step first"
        )
    earlier = history[-delay.steps - 1] if len(history) > delay.steps else None
    return extrapolated(history[-delay.steps], earlier, delay.extrapolate)


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Nodes whose values nobody reads after a node."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for operand in node.all_input_nodes:
            last[operand] = node
    gone: defaultdict[fx.Node, list[fx.Node]] = defaultdict(list)
    for operand, node in last.items():
        gone[node].append(operand)
    return dict(gone)
