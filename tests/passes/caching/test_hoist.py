"""hoist-invariants: what leaves the loop, what stays, and the figures of it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from caching.tiny import control_of, stack, stack_program, tokens
from torch import Tensor, nn

import graphopt
from graphopt.cost import cost
from graphopt.errors import PreconditionError, SpecError
from graphopt.runtime.session import CacheSession


@cache
def result() -> graphopt.Result:
    return graphopt.Pipeline("hoist-invariants").run(stack_program())


def test_text_and_timestep_each_have_a_program_and_the_step_has_lost_them() -> None:
    schedule = result().schedule
    assert schedule is not None
    assert dict(schedule.hoisted) == {"hoisted-0": ("text",), "hoisted-1": ("timestep",)}
    assert schedule.timestep == "timestep"
    full = result().programs["full"]
    assert not any("modulation" in name or ".text" in name or "time" in name for name in full.parameters)
    assert sum(node.op == "call_function" for node in full.nodes()) == 2 + 3 * 6
    assert {name.split(".")[-2] for name in result().programs["hoisted-0"].parameters} == {"text"}


def test_the_report_counts_what_a_step_saves() -> None:
    whole, step = cost(result().program), cost(result().programs["full"])
    saved = 2 * 16 + 3 * (17 * 16 + 5 * 16)
    assert whole.parameters - step.parameters == saved
    notes = result().report.passes[0].notes
    assert notes[0] == f"a full step computes {whole.macs - step.macs:,} of {whole.macs:,} MACs less"
    assert whole.macs - step.macs == 2 * (16 + 3 * (16 * 16 + 4 * 16))
    assert notes[1] == f"it reads {4 * saved:,} of 17,808 bytes of weights less ({saved:,} parameters)"
    assert notes[2] == f"values of {6 * 2 * 16 * 4} bytes are handed to the steps"


def test_what_depends_on_a_moving_input_stays() -> None:
    moving = graphopt.Pipeline("hoist-invariants{per_step=[text]}").run(stack_program())
    assert moving.schedule is not None
    assert list(moving.schedule.hoisted.values()) == [("timestep",)]
    assert any(".text" in name for name in moving.programs["full"].parameters)


def test_another_sample() -> None:
    other = graphopt.Pipeline("hoist-invariants{sample=text}").run(stack_program())
    assert other.schedule is not None
    assert ("sample",) in other.schedule.hoisted.values()
    session = CacheSession(other)
    for step in range(3):
        assert torch.equal(session(*tokens(step)), other.program(*tokens(step)))


class Mixed(nn.Module):
    """Gives text back as it is and worked on; joins text and timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Linear(4, 4)

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        known = torch.tanh(self.text(text))
        return sample * (known * timestep[:, None]) + known, known, text


def test_values_that_a_step_returns_and_values_of_two_inputs() -> None:
    made = graphopt.capture(Mixed().eval().requires_grad_(False), (torch.randn(2, 4), torch.rand(2), torch.randn(2, 4)))
    hoisted = graphopt.Pipeline("hoist-invariants").run(made)
    assert hoisted.schedule is not None
    assert list(hoisted.schedule.hoisted.values()) == [("text",), ("text", "timestep")]
    session, inputs = CacheSession(hoisted), (torch.randn(2, 4), torch.rand(2), torch.randn(2, 4))
    expected = made(*inputs)
    for _ in range(3):
        found = session(*inputs)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
        for one in found[:2]:
            one.fill_(7)  # the caller's own, not what is kept


class Plain(nn.Module):
    """Looks at its input and at a weight in another shape only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, sample: Tensor, text: Tensor) -> Tensor:
        return self.layer(sample) + text.transpose(0, 1)[:4].transpose(0, 1) + self.layer.weight.t()[0]


def test_nothing_to_hoist_is_an_error() -> None:
    plain = graphopt.capture(Plain().eval(), (torch.randn(2, 4), torch.randn(2, 4)))
    with pytest.raises(PreconditionError, match="everything that Plain computes depends on sample; nothing can leave"):
        graphopt.Pipeline("hoist-invariants").run(plain)


def test_names_that_are_no_inputs_and_a_second_time() -> None:
    with pytest.raises(SpecError, match=r"found no input 'control', wanted some of sample, timestep, text"):
        graphopt.Pipeline("hoist-invariants{per_step=[control]}").run(stack_program())
    with pytest.raises(SpecError, match="found no input 'time'"):
        graphopt.Pipeline("hoist-invariants{timestep=time}").run(stack_program())
    with pytest.raises(PreconditionError, match="was hoisted before; name the pass once"):
        graphopt.Pipeline("hoist-invariants,hoist-invariants").run(stack_program())


def test_a_control_that_is_named_moves_with_the_step() -> None:
    inputs = tokens()
    program = graphopt.capture(stack(), inputs, {"control": control_of(inputs)})
    moving = graphopt.Pipeline("hoist-invariants{per_step=[control]}").run(program)
    session = CacheSession(moving)
    for step in range(3):
        control = step * control_of(inputs)
        assert torch.equal(session(*tokens(step), control=control), program(*tokens(step), control=control))
