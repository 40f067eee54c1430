"""CacheSession: runs the steps of a schedule, one a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.assembly import write_code
from graphopt.errors import GraphoptError
from graphopt.example_inputs import ExampleInputs
from graphopt.input_check import InputCheck, flat_like
from graphopt.program import Program
from graphopt.rewrite.extras import extra_inputs
from graphopt.runtime.choice import Choice, choose
from graphopt.runtime.hoisting import Hoisted
from graphopt.runtime.state import BranchState, input_key
from graphopt.schedule import DISTANCE, FULL, PROBE, REFRESH, TAIL_CACHED, TAIL_FULL, Schedule, Threshold


class Scheduled(Protocol):
    """What a session plays: programs by id, and their schedule."""

    @property
    def programs(self) -> Mapping[str, Program]:
        """The programs."""

    @property
    def schedule(self) -> Any:
        """The schedule."""


@dataclass(frozen=True)
class Decision:
    """What a session did at a step.

    Attributes:
        step: number of the step in its generation, from 0.
        branch: name of the guidance branch.
        program: id of the program that gave the output.
        reason: why this one.
        distance: what the probe measured, where one ran.
    """

    step: int
    branch: str
    program: str
    reason: str
    distance: float | None = None


class CacheSession:
    """Runs a model step by step, computing at each step what the schedule says and reading the rest.

    A session is called like the model and returns what the model returns. Its memory is keyed by guidance branch and
    by shape, dtype and device of all inputs: a step that does not fit what is held is computed in full. Static
    schedules never wait for the device; a threshold reads one number a step.

    Args:
        result: what a pipeline with a caching pass returned.

    Attributes:
        schedule: which program runs at which step.
        decisions: what every step since the last reset did.

    Raises:
        GraphoptError: the result has no schedule.
    """

    def __init__(self, result: Scheduled) -> None:
        if not isinstance(getattr(result, "schedule", None), Schedule):
            raise GraphoptError(
                f"the {type(result).__name__} has no schedule, wanted a result of a caching pass; run a pipeline such "
                "as deepcache{interval=3} on the program"
            )
        self.schedule: Schedule = result.schedule
        self.decisions: list[Decision] = []
        self._programs = dict(result.programs)
        self._calls: dict[str, Callable[..., Any]] = {name: one.graph_module for name, one in self._programs.items()}
        self._copies = False
        full = self._programs[FULL]
        extras = self.schedule.inputs(FULL)
        self._names = [name for name in inspect.signature(full.graph_module.forward).parameters if name not in extras]
        captured = (full.args, {name: value for name, value in full.kwargs.items() if name not in extras})
        leaves, self._spec = pytree.tree_flatten(captured)
        self._check = InputCheck(full.graph_module, leaves, full.assumptions)
        self._states: dict[str, BranchState] = {}
        self._hoisted: dict[str, Hoisted] = {}
        self._branch = ""
        self._wanted: dict[str, int] = {}
        self._steps: int | None = None
        self._timesteps: Sequence[float] | None = None

    # ------------------------------------------------------------------ control

    def reset(self, *, steps: int | None = None, timesteps: Sequence[float] | None = None) -> None:
        """Start a new generation: nothing is held any more.

        Args:
            steps: number of its steps, where known; a schedule may want the last one full.
            timesteps: timestep of every step, where known; a schedule with a window of timesteps reads them here
                instead of from the device.
        """
        if steps is not None and steps < 1:
            raise GraphoptError(f"found steps={steps}, wanted a number of steps from 1 up, or None")
        self._states.clear()
        self._hoisted.clear()
        self._wanted.clear()
        self.decisions.clear()
        self._timesteps = None if timesteps is None else [float(item) for item in timesteps]
        self._steps = len(timesteps) if steps is None and timesteps is not None else steps

    @contextmanager
    def branch(self, name: str) -> Iterator[None]:
        """Run steps of another guidance branch, such as the unconditional one, with a memory of its own."""
        before, self._branch = self._branch, name
        try:
            yield
        finally:
            self._branch = before

    @property
    def step(self) -> int:
        """Number of the next step of the current branch; setting it to one that is not the next drops what is held."""
        state = self._states.get(self._branch)
        return self._wanted.get(self._branch, 0 if state is None else state.step + 1)

    @step.setter
    def step(self, number: int) -> None:
        """Say which step comes next on the current branch."""
        if number < 0:
            raise GraphoptError(f"found step {number}, wanted a number from 0 up")
        self._wanted[self._branch] = number

    @property
    def cache_bytes(self) -> int:
        """Bytes of the slots held for later steps, of all guidance branches; hoisted values are counted apart."""
        return sum(state.size_bytes for state in self._states.values())

    @property
    def hoisted_bytes(self) -> int:
        """Bytes of what hoisted programs gave and of their tables over the timesteps, of all guidance branches."""
        return sum(hoisted.size_bytes for hoisted in self._hoisted.values())

    def compile(self, **options: Any) -> None:
        """Compile every program with `torch.compile(fullgraph=True)`.

        Args:
            options: further options of `torch.compile`. Modes that use CUDA graphs write to the same memory at every
                call, so what is held is copied then.
        """
        graphed = (options.get("options") or {}).get("triton.cudagraphs", False)
        self._copies = bool(graphed) or options.get("mode") in ("reduce-overhead", "max-autotune")
        graphs = {name: program.graph_module for name, program in self._programs.items()}
        for graph in graphs.values():
            write_code(graph)
        self._calls = {name: torch.compile(graph, fullgraph=True, **options) for name, graph in graphs.items()}

    # ------------------------------------------------------------------ steps

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the next step of the current branch.

        Args:
            args: the model's positional inputs.
            kwargs: its keyword inputs.

        Returns:
            The model's own output.

        Raises:
            GraphoptError: a size that the model's code reads is not the captured one.
        """
        args, kwargs = self._in_order(args, kwargs)
        self._check.compare(pytree.tree_leaves((args, kwargs)))
        state, step, fresh = self._prepared(args, kwargs)
        known = self._timesteps
        timestep = known[step] if known is not None and step < len(known) else None
        choice = choose(self.schedule, state, step, self._steps, fresh, lambda: self._timestep(timestep, args, kwargs))
        try:
            output, decision = self._run(choice, state, step, args, kwargs)
        except BaseException:
            self._states.pop(self._branch, None)
            self._hoisted.pop(self._branch, None)
            raise
        state.step = step
        self.decisions.append(decision)
        return output

    def _in_order(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs as they were captured: the same ones by place, keywords and keys of mappings in the same order.

        Raises:
            GraphoptError: an input is missing, or is one that the model was captured without.
        """
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        strangers = [name for name in given if name not in self._names]
        missing = [name for name in self._names if name not in given]
        if strangers or missing or len(given) != len(args) + len(kwargs):
            fault = f"found {strangers[0]}" if strangers else f"found no {missing[0]}" if missing else "found one twice"
            raise GraphoptError(
                f"{fault} among the inputs, wanted just those that the model was captured with: "
                f"{', '.join(self._names)}; give them all, or capture the model as it is called"
            )
        count = len(self._programs[FULL].args)
        ordered = (
            tuple(given[name] for name in self._names[:count]),
            {name: given[name] for name in self._names[count:]},
        )
        leaves = flat_like(ordered, pytree.tree_unflatten(range(self._spec.num_leaves), self._spec))
        if len(leaves) != self._spec.num_leaves:
            return ordered
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return args, kwargs

    def _prepared(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[BranchState, int, str | None]:
        """Memory of the current branch, the step's number, and why the memory is empty where it is."""
        key, step = input_key(args, kwargs), self.step
        self._wanted.pop(self._branch, None)
        state = self._states.get(self._branch)
        reason = None
        if state is None:
            reason = "first step"
        elif state.key != key:
            reason = "inputs of another shape, dtype or device"
            self._hoisted.pop(self._branch, None)
        elif step != state.step + 1:
            reason = f"step {step} does not follow step {state.step}"
        if state is None or reason is not None:
            state = BranchState(key, step=step - 1)
            self._states[self._branch] = state
        return state, step, reason

    def _run(
        self, choice: Choice, state: BranchState, step: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Decision]:
        if choice.program == PROBE:
            return self._probe(state, step, args, kwargs)
        output, filled = self._call(choice.program, state.tensors, state, step, args, kwargs)
        if choice.program in (FULL, REFRESH):
            state.keep(filled, step, copy=self._copies)
        else:
            state.store(filled, copy=self._copies)
            state.hit()
        return output, Decision(step, self._branch, choice.program, choice.reason)

    def _probe(
        self, state: BranchState, step: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Decision]:
        policy = self.schedule.policy
        if not isinstance(policy, Threshold):
            raise GraphoptError(f"a probe needs a threshold, found the policy {policy.kind}; insert the cache again")
        _, found = self._call(PROBE, state.tensors, state, step, args, kwargs)
        distance = float(found.pop(DISTANCE))
        found = {name: tensor.clone() for name, tensor in found.items()} if self._copies else found
        handed = {**state.tensors, **found}
        if distance <= policy.threshold:
            output, _ = self._call(TAIL_CACHED, handed, state, step, args, kwargs)
            state.hit()
            return output, Decision(step, self._branch, TAIL_CACHED, "within the threshold", distance)
        output, filled = self._call(TAIL_FULL, handed, state, step, args, kwargs)
        held = {name: tensor for name, tensor in found.items() if name in self.schedule.outputs(FULL)}
        state.keep({**held, **filled}, step, copy=self._copies)
        return output, Decision(step, self._branch, TAIL_FULL, "beyond the threshold", distance)

    def _call(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        state: BranchState,
        step: int,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> tuple[Any, dict[str, Tensor]]:
        hoisted = self._hoisted_values(args, kwargs, step)
        known = {**tensors, **hoisted}
        numbers = {"elapsed": float(step - state.filled), "updates": float(state.updates)}
        extras = extra_inputs(self.schedule, name, known, **numbers)
        extras = {key: _usable(tensor) for key, tensor in extras.items()}
        output, filled = self._calls[name](*args, **kwargs, **extras)
        return output, dict(filled)

    def _hoisted_values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], step: int) -> dict[str, Tensor]:
        if not self.schedule.hoisted:
            return {}
        if self._branch not in self._hoisted:
            self._hoisted[self._branch] = Hoisted(self.schedule, self._programs, self._hoist)
        return self._hoisted[self._branch].values(args, kwargs, step, self._timesteps)

    def _hoist(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], slots: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        extras = {key: slots[key] for key in self.schedule.inputs(name)}
        _, filled = self._calls[name](*args, **kwargs, **extras)
        return {key: tensor.detach().clone() if self._copies else tensor.detach() for key, tensor in filled.items()}

    def _timestep(self, known: float | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        """The timestep of this step: the one told at reset, else what the model is given."""
        if known is not None:
            return known
        name = self.schedule.timestep
        full = self._programs[FULL]
        places = [node.name for node in full.graph_module.graph.find_nodes(op="placeholder")]
        if name not in places:
            raise GraphoptError(
                "the schedule has a window of timesteps and no input tells them; call reset(timesteps=...) before the "
                "first step"
            )
        leaf = ExampleInputs(args, dict(kwargs)).leaves()[places.index(name)]
        return float(leaf.flatten()[0]) if isinstance(leaf, Tensor) else float(leaf)


def _usable(tensor: Tensor) -> Tensor:
    """A tensor that autograd takes: one made under inference mode is copied outside of it."""
    return tensor.clone() if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor
