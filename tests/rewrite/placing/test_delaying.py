"""Late values: steady steps are the recurrence written out by hand."""

from functools import cache

import pytest
import torch
from rewrite.placing.networks import WIDTH, Chain, Timed, example
from rewrite.placing.placements import in_a_row, leaves_of
from torch import Tensor

import graphopt
from graphopt.program import Program
from graphopt.rewrite.placing.delaying import delay_edges
from graphopt.rewrite.placing.emulator import Emulator
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.staging import stage
from graphopt.stages import STEADY, SYNC, Delay

STEPS = 6


@cache
def chain() -> tuple[Chain, Program]:
    torch.manual_seed(0)
    model = Chain().eval()
    return model, graphopt.capture(model, (example(2, WIDTH),))


def three_devices(sampler: int = 0) -> Placed:
    return stage(chain()[1], [["linear", "tanh"], ["linear_1", "tanh_1"], ["linear_2"]], sampler)


def ahead(kept: list[Tensor], b: float, steps: int = 1) -> Tensor:
    """What is read of a value that was kept at every step so far, the present one left out."""
    if b == 0 or len(kept) <= steps:
        return kept[-steps]
    return kept[-steps] + b * (kept[-steps] - kept[-steps - 1])


def play(placed: Placed, warm_up: int, inputs: list[Tensor]) -> list[Tensor]:
    emulator = Emulator({SYNC: placed, STEADY: placed})
    return [leaves_of(emulator.run(SYNC if step < warm_up else STEADY, (x,), {}))[0] for step, x in enumerate(inputs)]


@pytest.mark.parametrize("b", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("warm_up", [1, 2, 3])
def test_steady_steps_are_the_recurrence(b: float, warm_up: int) -> None:
    inputs = [example(2, WIDTH, seed=step) for step in range(STEPS)]
    first, second, third = chain()[0].maps
    expected, kept_first, kept_second = [], list[Tensor](), list[Tensor]()
    with torch.no_grad():
        for step, x in enumerate(inputs):
            one = first(x).tanh()
            two = second(one if step < warm_up else ahead(kept_first, b)).tanh()
            expected.append(third(two if step < warm_up else ahead(kept_second, b)))
            kept_first.append(one)
            kept_second.append(two)
    found = play(delay_edges(three_devices(), extrapolate=b), warm_up, inputs)
    assert all(map(torch.equal, found, expected))


def test_two_steps_late() -> None:
    inputs = [example(2, WIDTH, seed=step) for step in range(STEPS)]
    first, second, third = chain()[0].maps
    placed = stage(chain()[1], [["linear", "tanh"], ["linear_1", "tanh_1", "linear_2"]])
    expected, kept = [], list[Tensor]()
    with torch.no_grad():
        for step, x in enumerate(inputs):
            one = first(x).tanh()
            expected.append(third(second(one if step < 2 else ahead(kept, 0.5, 2)).tanh()))
            kept.append(one)
    assert all(map(torch.equal, play(delay_edges(placed, steps=2, extrapolate=0.5), 2, inputs), expected))


def test_without_an_earlier_value_the_last_one_is_read_as_it_was() -> None:
    inputs = [example(2, WIDTH, seed=step) for step in range(2)]
    plain, ahead_of = (play(delay_edges(three_devices(), extrapolate=b), 1, inputs) for b in (0.0, 1.0))
    assert torch.equal(plain[1], ahead_of[1])


def test_every_other_device_that_reads_has_a_delay_of_its_own() -> None:
    torch.manual_seed(0)
    program = graphopt.capture(Timed().eval(), (example(2, WIDTH), torch.arange(2)))
    placed = delay_edges(stage(program, in_a_row(program, 3)), steps=1, extrapolate=0.5)
    late = [delay for delay in placed.delays if delay.value == "sigmoid"]
    assert late == [Delay(f"sigmoid_late_{device}", "sigmoid", device, 1, 0.5) for device in (1, 2)]
    for delay in placed.delays:
        node = next(one for one in placed.program.graph_module.graph.nodes if one.name == delay.name)
        assert node.target is torch.ops.aten.alias.default
        assert {placed.sites[user.name].device for user in node.users} == {delay.device}


def test_inputs_and_the_sampler_s_outputs_are_of_the_present_step() -> None:
    placed = delay_edges(three_devices(sampler=1))
    assert [delay.value for delay in placed.delays] == ["tanh", "tanh_1"]
    assert [node.name for node in placed.program.graph_module.graph.output_node().all_input_nodes] == ["linear_2"]


def test_values_that_stay_fresh() -> None:
    placed = delay_edges(three_devices(), fresh=["tanh"])
    assert [delay.value for delay in placed.delays] == ["tanh_1"]


def test_in_synchronous_steps_a_delay_is_its_operand() -> None:
    placed = delay_edges(three_devices(), extrapolate=1.0)
    assert torch.equal(placed.program(example(2, WIDTH)), chain()[1](example(2, WIDTH)))


def test_one_device_has_no_delays() -> None:
    program = chain()[1]
    assert delay_edges(stage(program, in_a_row(program, 1))).delays == ()
