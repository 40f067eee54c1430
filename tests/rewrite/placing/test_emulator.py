"""The emulator beside the program, and what it keeps from step to step."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite.placing.networks import WIDTH, Chain, Several, Timed, example, several_inputs
from rewrite.placing.placements import at_random, leaves_of, same
from torch.utils import _pytree as pytree

import graphopt
from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.proof.rehearsal import Rehearsal
from graphopt.rewrite.placing.delaying import delay_edges
from graphopt.rewrite.placing.emulator import Emulator
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.segments import cut
from graphopt.rewrite.placing.staging import stage
from graphopt.stages import STEADY, SYNC, Partition


@cache
def program() -> Program:
    torch.manual_seed(0)
    return graphopt.capture(Timed().eval(), (example(2, WIDTH), torch.arange(2)))


def inputs(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    return example(2, WIDTH, seed=step), torch.tensor([9 - step, 9 - step])


@settings(max_examples=15)
@given(devices=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_synchronous_steps_are_the_program(devices: int, seed: int) -> None:
    placed = delay_edges(stage(program(), at_random(program(), devices, seed)), extrapolate=1.0)
    emulator = Emulator({SYNC: placed, STEADY: placed})
    for step in range(3):
        assert same(leaves_of(emulator.run(SYNC, inputs(step), {})), leaves_of(program()(*inputs(step))))


@settings(max_examples=15)
@given(
    devices=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    warm_up=st.integers(1, 3),
    b=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_segments_give_the_same_bits_at_every_step(devices: int, seed: int, warm_up: int, b: float) -> None:
    placed = delay_edges(stage(program(), at_random(program(), devices, seed), seed % devices), extrapolate=b)
    stages = {SYNC: placed, STEADY: placed}
    cutting, emulator = cut(stages), Emulator(stages)
    partition = Partition("async", devices, placed.sampler, ((),), cutting.phases, placed.delays, warm_up=warm_up)
    rehearsal = Rehearsal(partition, cutting)
    for step in range(6):
        phase = partition.phase_of(step)
        expected = leaves_of(emulator.run(phase, inputs(step), {}))
        assert same(rehearsal.run(phase, dict(zip(("x", "t"), inputs(step), strict=True))), expected)


def late_placed() -> Placed:
    whole = program()
    return delay_edges(stage(whole, at_random(whole, 2, 3)))


def test_a_reset_forgets_the_generation_before() -> None:
    placed = late_placed()
    assert placed.delays
    emulator = Emulator({SYNC: placed, STEADY: placed})

    def generation() -> list[torch.Tensor]:
        return [leaves_of(emulator.run(SYNC if step < 1 else STEADY, inputs(step), {}))[0] for step in range(4)]

    first = generation()
    emulator.reset()
    assert same(generation(), first)


def test_a_steady_step_without_an_earlier_one_is_refused() -> None:
    placed = late_placed()
    emulator = Emulator({SYNC: placed, STEADY: placed})
    with pytest.raises(PlanError, match=r"nothing is kept of .* run a synchronous step first"):
        emulator.run(STEADY, inputs(0), {})


def test_outputs_are_built_as_the_model_builds_them() -> None:
    torch.manual_seed(0)
    args, kwargs = several_inputs()
    whole = graphopt.capture(Several().eval(), args, kwargs)
    emulator = Emulator({SYNC: stage(whole, at_random(whole, 2, 0))})
    found, expected = emulator.run(SYNC, args, kwargs), whole(*args, **kwargs)
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)
    assert same(leaves_of(found), leaves_of(expected))
    assert (found["e"], found["b"][3]) == (3, None)


def test_the_order_of_keyword_inputs_does_not_matter() -> None:
    args, kwargs = several_inputs()
    kwargs |= {"extra": args[1]}
    whole = graphopt.capture(Several().eval(), args[:1], kwargs)
    emulator = Emulator({SYNC: stage(whole, at_random(whole, 2, 0))})
    turned = dict(reversed(kwargs.items()))
    assert same(leaves_of(emulator.run(SYNC, args[:1], turned)), leaves_of(whole(*args[:1], **kwargs)))


def test_what_is_sent_arrives_without_gaps_in_memory() -> None:
    """A device reads a transposed value as it is on its own, and packed from another; the numbers stay."""

    class Turned(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.maps[0](x).t().expand(3, WIDTH, -1).cos()

    whole = graphopt.capture(Turned().eval(), (example(2, WIDTH),))
    placed = stage(whole, [["linear", "t", "expand"], ["cos"]])
    found = Emulator({SYNC: placed}).run(SYNC, (example(2, WIDTH),), {})
    assert torch.equal(found, whole(example(2, WIDTH)))
