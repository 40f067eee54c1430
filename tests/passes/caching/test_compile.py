"""Every program of a cache compiles into one graph and exports; a model that holds its cache in hooks does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peers.compiling import (
    Attempt,
    Call,
    attempt_compile,
    attempt_export,
    deepcache_at,
    first_block_at,
    same,
    taylorseer_at,
)
from peers.sampling import scheduler_of
from peers.subjects import PIXART, UNET, normal

import graphopt

SUBJECTS = {"pixart": PIXART, "unet": UNET}
CASES = {
    ("unet", "deepcache{interval=3}"): {"full", "cached"},
    ("unet", "deepcache{interval=3,branch=2},hoist-invariants"): {"full", "cached"},
    ("pixart", "first-block{threshold=0.4}"): {"full", "probe", "tail-full", "tail-cached"},
    ("pixart", "first-block{threshold=0.4},hoist-invariants"): {"full", "probe", "tail-full", "tail-cached"},
    ("pixart", "taylorseer{interval=3,warm_up=2,order=2}"): {"full", "refresh", "cached"},
}
PROGRAMS: dict[str, graphopt.Program] = {}


def program_of(name: str) -> graphopt.Program:
    if name not in PROGRAMS:
        subject = SUBJECTS[name]
        timestep = scheduler_of(subject).timesteps[0]
        args, kwargs = subject.arguments(normal(2, *subject.latents), timestep, subject.conditions(2))
        PROGRAMS[name] = graphopt.capture(subject.make(), args, kwargs)
    return PROGRAMS[name]


QUICK = {("unet", "deepcache{interval=3}"), ("pixart", "first-block{threshold=0.4}")}


@pytest.mark.parametrize(
    ("name", "passes"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_programs_compile_and_export(name: str, passes: str) -> None:
    result = graphopt.Pipeline(passes).run(program_of(name))
    assert CASES[name, passes] <= set(result.programs)
    for key, program in result.programs.items():
        call = Call(program.graph_module, program.args, program.kwargs)
        assert attempt_compile(lambda call=call: call) == Attempt(equal=True), key
        assert attempt_export(lambda call=call: call) == Attempt(equal=True), key


@pytest.mark.parametrize("at", [deepcache_at, first_block_at])
@pytest.mark.parametrize("step", [1, 2])
def test_originals_neither_compile_nor_export(at: Callable[[int], Call], step: int) -> None:
    assert attempt_compile(lambda: at(step)).error == "Unsupported"
    assert attempt_export(lambda: at(step)).error == "GuardOnDataDependentSymNode"


def test_the_export_of_a_prediction_holds_the_cache_as_constants() -> None:
    """It agrees with the hook at that one step; what the hook would store later never reaches it."""
    assert attempt_compile(lambda: taylorseer_at(2)).error == "Unsupported"
    exported = attempt_export(lambda: taylorseer_at(2))
    assert exported.equal
    assert exported.baked > 0


def test_attempts_see_what_is_wrong() -> None:
    class Holding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = {"x": torch.ones(3)}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.held["x"]

    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    assert attempt_export(lambda: Call(Holding(), (torch.zeros(3),), {})) == Attempt(equal=True, baked=12)
    assert attempt_compile(lambda: Call(Branching(), (torch.ones(3),), {})).error is not None
    assert not same((torch.zeros(2),), (torch.ones(2),))
