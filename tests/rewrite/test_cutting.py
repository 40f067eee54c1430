"""Cut programs: their figures, what they share, and places where a program cannot be cut."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from caching.tiny import stack_program, tokens
from torch import Tensor, nn

import graphopt
from graphopt.cost import cost
from graphopt.cuts import Cut
from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.cutting import lost_inputs, step_program
from graphopt.rewrite.stepping import full_and_cached, step_programs
from graphopt.schedule import Every, Schedule, Slot

BLOCK_MACS = 2 * (16 * 16 + 4 * 16) + 2 * 5 * 2 * 16 * 32
"""Multiply-accumulates of a block on the example batch: modulation, text and an MLP over five tokens."""
BLOCK_PARAMETERS = 17 * 16 + 5 * 16 + 17 * 32 + 33 * 16


@cache
def program() -> Program:
    return stack_program()


def schedule_of(*cuts: str, order: int = 0) -> Schedule:
    slots = {f"cache_{number}": Slot(Cut.parse(cut), order) for number, cut in enumerate(cuts)}
    return Schedule(slots, full_and_cached(slots), Every(2))


def cut(*cuts: str, order: int = 0) -> dict[str, Program]:
    return step_programs(program(), schedule_of(*cuts, order=order), allow_dead=("*",))


def test_a_cached_program_has_lost_what_the_cut_stands_for() -> None:
    programs = cut("linear_1:add_3")
    whole, full, cached = cost(program()), cost(programs["full"]), cost(programs["cached"])
    assert (full.macs, full.parameters) == (whole.macs, whole.parameters)
    assert whole.macs - cached.macs == 2 * BLOCK_MACS
    assert whole.parameters - cached.parameters == 2 * BLOCK_PARAMETERS
    operators = [node for node in programs["cached"].nodes() if node.op == "call_function"]
    assert len(operators) == 4 + 1 + 1 + 12 + 1  # time, entry, head, the last block, and the add that reads the cut
    assert not any(name.startswith(("blocks.0", "blocks.1")) for name in programs["cached"].parameters)


def test_full_steps_are_bit_equal_and_fill_the_residual() -> None:
    programs = cut("linear_1:add_3", "tanh_3")
    output, filled = programs["full"](*tokens())
    assert torch.equal(output, program()(*tokens()))
    assert list(filled) == ["cache_0", "cache_1"]
    again, nothing = programs["cached"](*tokens(), **filled)
    assert nothing == {}
    torch.testing.assert_close(again, output, rtol=0, atol=1e-6)


def test_programs_share_the_weights() -> None:
    programs = cut("linear_1:add_3")
    memory = {name: tensor.data_ptr() for name, tensor in program().parameters.items()}
    for made in programs.values():
        assert {name: tensor.data_ptr() for name, tensor in made.parameters.items()}.items() <= memory.items()


def test_cached_programs_take_other_batches() -> None:
    programs = cut("linear_1:add_3")
    output, filled = programs["full"](*tokens(batch=5))
    cached, _ = programs["cached"](*tokens(batch=5), **filled)
    torch.testing.assert_close(cached, output, rtol=0, atol=1e-6)


def test_inputs_without_readers_are_told() -> None:
    programs = cut("linear_1:add_5")
    assert lost_inputs(program(), programs["cached"]) == ("timestep", "text")
    assert lost_inputs(program(), programs["full"]) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("add_99", "found no value add_99 in the program"),
        ("output", "output is no tensor that the program computes"),
        ("add_5:add_3", "the residual cut add_5:add_3 goes backwards"),
        ("add_3:add_3", "the residual cut add_3:add_3 goes backwards"),
        ("add_1:linear_8", r"joins \[2, 5, 16\] and \[2, 5, 32\]"),
    ],
)
def test_places_that_cannot_be_cut_are_named(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        step_program(program(), schedule_of(text), "full", {})


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_prediction_is_a_polynomial_through_the_filled_values(order: int) -> None:
    programs = cut("linear_13", order=order)
    assert set(programs) == {"full", "refresh", "cached"}
    inputs = tokens()
    held: dict[str, Tensor] = {}
    values = []
    gap = 3.0
    for update in range(order + 1):
        call = tokens(step=3 * update)
        if not update:
            held = dict(programs["full"](*call)[1])
        else:
            scalars = {"cache_elapsed": torch.tensor(gap), "cache_updates": torch.tensor(float(update))}
            known = {name: held.get(name, torch.zeros_like(held["cache_0"])) for name in parts(order)[:-1]}
            held = dict(programs["refresh"](*call, **known, **scalars)[1])
        values.append(held["cache_0"])
    slopes = [values]
    while len(slopes[-1]) > 1:
        slopes.append([(later - earlier) / gap for earlier, later in zip(slopes[-1], slopes[-1][1:], strict=False)])
    predicted = sum(
        slope[-1] * 2.0**place / torch.tensor(float(place)).add(1).lgamma().exp() for place, slope in enumerate(slopes)
    )
    cached, _ = programs["cached"](*inputs, **held, cache_elapsed=torch.tensor(2.0))
    weight, bias = program().parameters["head.weight"], program().parameters["head.bias"]
    base = residual_base(inputs)
    torch.testing.assert_close(cached, nn.functional.linear(base + predicted, weight, bias), rtol=0, atol=1e-5)


def parts(order: int) -> list[str]:
    return ["cache_0", *(f"cache_0_d{place}" for place in range(1, order + 1))]


def residual_base(inputs: tuple[Tensor, ...]) -> Tensor:
    """What the predicted branch is added to: the sample behind the second block."""
    found = step_programs(program(), schedule_of("add_3"), allow_dead=("*",))["full"](*inputs)[1]
    return found["cache_0"]


class Written(nn.Module):
    """Writes into a part of a value in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, sample: Tensor) -> Tensor:
        hidden = self.first(sample) * 2
        hidden[:, :2] = sample[:, 2:]
        return hidden + sample


def test_values_that_the_model_writes_to_are_no_cuts() -> None:
    written = graphopt.capture(Written().eval(), (torch.randn(2, 4),))
    with pytest.raises(PlanError, match="mul lies in memory that the model writes to in place"):
        step_program(written, schedule_of("mul"), "full", {})


class Views(nn.Module):
    """Returns a value, a view of it, a part of its input, and the half of a larger value."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)

    def forward(self, sample: Tensor) -> tuple[Tensor, ...]:
        hidden = self.first(sample)
        left, right = hidden.chunk(2, -1)
        return hidden, hidden.view(-1, 2, 4), sample[:, 1:], torch.tanh(left) * right


@pytest.mark.parametrize("name", ["sample", "linear", "getitem", "getitem_1", "slice_1", "reshape", "mul"])
def test_what_is_stored_is_nobody_elses(name: str) -> None:
    """Neither does a slot lie in outputs or inputs, nor do outputs lie in a slot, nor does it hold a larger value."""
    torch.manual_seed(0)
    views = graphopt.capture(Views().eval().requires_grad_(False), (torch.randn(2, 4),))
    programs = step_programs(views, schedule_of(name), allow_dead=("*",))
    sample = torch.randn(2, 4)
    outputs, filled = programs["full"](sample)
    slot = filled["cache_0"]
    assert slot.untyped_storage().nbytes() == slot.numel() * slot.element_size()
    kept = slot.clone()
    for tensor in (*outputs, sample):
        tensor.fill_(3)
    assert torch.equal(slot, kept)
    for tensor in programs["cached"](sample, cache_0=slot)[0]:
        tensor.fill_(4)
    assert torch.equal(slot, kept)
