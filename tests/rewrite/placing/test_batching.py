"""The batch in parts: rows are cut and joined again, and what cannot be cut is refused."""

from functools import cache

import pytest
import torch
from rewrite.placing.networks import WIDTH, Chain, Mean, Sizes, State, Static, Tied, Timed, Tokens, example
from rewrite.placing.placements import in_a_row, leaves_of, run_segments, values_of
from torch import Tensor, nn

import graphopt
from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.placing.batching import batch_dim, split_batch
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.staging import stage
from graphopt.stages import Site


@cache
def program(model: type[nn.Module], *args: int) -> Program:
    torch.manual_seed(0)
    inputs: dict[type, tuple[Tensor, ...]] = {
        Timed: (example(2, WIDTH), torch.arange(2)),
        Tokens: (torch.arange(6).reshape(2, 3), example(WIDTH)),
    }
    return graphopt.capture(model().eval(), inputs.get(model, (example(2, WIDTH),)))


def halves(whole: Program, parts: int = 2, devices: int = 2) -> Placed:
    return split_batch(stage(whole, in_a_row(whole, devices)), parts, lambda site, part: Site(site.device, part))


def close(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(
        one.shape == other.shape and torch.allclose(one, other, atol=1e-6)
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("model", [Chain, Sizes, Tied])
@pytest.mark.parametrize(("rows", "parts"), [(2, 2), (3, 2), (5, 2), (4, 3), (7, 4), (4, 4), (3, 1)])
def test_parts_give_what_the_whole_gives(model: type[nn.Module], rows: int, parts: int) -> None:
    whole = program(model)
    placed = halves(whole, parts)
    inputs = (example(rows, WIDTH, seed=1),)
    expected = leaves_of(whole(*inputs))
    assert close(leaves_of(placed.program(*inputs)), expected)
    assert close(run_segments(placed, inputs)[1], expected)


def test_every_part_has_its_own_rows_bit_for_bit() -> None:
    whole = program(Chain)
    inputs = example(5, WIDTH)
    expected = torch.cat([whole(inputs[:2]), whole(inputs[2:])])
    _, (found,) = run_segments(halves(whole), (inputs,))
    assert torch.equal(found, expected)
    assert [halves(whole).rows(part, 5) for part in range(2)] == [2, 3]


def test_integer_inputs_are_cut_and_inputs_without_batch_are_not() -> None:
    whole = program(Tokens)
    inputs = (torch.arange(9).reshape(3, 3) % 7, example(WIDTH))
    _, found = run_segments(halves(whole), inputs)
    assert close(found, leaves_of(whole(*inputs)))


def test_an_output_without_batch_comes_from_the_first_part() -> None:
    whole = program(Tokens)
    inputs = (torch.arange(9).reshape(3, 3) % 7, example(WIDTH))
    assert torch.equal(run_segments(halves(whole), inputs)[1][1], leaves_of(whole(*inputs))[1])


def test_several_inputs_are_cut_alike() -> None:
    whole = program(Timed)
    inputs = (example(3, WIDTH, seed=1), torch.arange(3))
    assert close(run_segments(halves(whole, 3), inputs)[1], leaves_of(whole(*inputs)))


def test_guidance_halves_are_on_devices_of_their_own() -> None:
    whole = program(Chain)
    placed = split_batch(stage(whole, in_a_row(whole, 1)), 2, lambda site, part: Site(part, part))
    cutting, found = run_segments(placed, (example(4, WIDTH),))
    assert close(found, leaves_of(whole(example(4, WIDTH))))
    assert {edge.value for edge in cutting.phases["sync"].edges} == {"x_part_1", "linear_2_part_1"}
    assert [edge.shape for edge in cutting.phases["sync"].edges] == [(1, WIDTH), (1, WIDTH)]


def test_the_program_s_names_are_kept() -> None:
    whole = program(Sizes)
    names = {node.name for node in halves(whole, 3).program.graph_module.graph.nodes}
    assert set(values_of(whole)) <= names


def test_the_dimension_of_the_batch() -> None:
    whole = program(Tokens)
    dims = {node.name: batch_dim(node) for node in whole.graph_module.graph.nodes if node.op == "placeholder"}
    assert dims == {"tokens": 0, "scale": None}


def test_a_static_batch_is_refused() -> None:
    with pytest.raises(PlanError, match=r"batch of the program is static.* capture the model with a batch"):
        halves(program(Static))


def test_other_sizes_that_change_are_refused() -> None:
    class Doubled(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([super().forward(x), x])

    whole = graphopt.capture(Doubled().eval(), (example(2, WIDTH),))
    assert whole.dynamic_batch
    with pytest.raises(PlanError, match=r"sizes \['2\*.*wanted the batch alone"):
        halves(whole)


def test_state_that_is_written_to_is_refused() -> None:
    with pytest.raises(PlanError, match="writes to 'count'"):
        halves(program(State))


def test_mixed_rows_are_told_by_the_numbers() -> None:
    whole = program(Mean)
    inputs = (example(4, WIDTH),)
    assert not close(run_segments(halves(whole), inputs)[1], leaves_of(whole(*inputs)))
