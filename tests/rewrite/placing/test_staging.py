"""Nodes on devices: any map gives what the program gives, bit for bit, whole and segment by segment."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite.placing.networks import (
    WIDTH,
    Chain,
    Several,
    Sizes,
    State,
    Static,
    Tied,
    Timed,
    Tokens,
    Written,
    WrittenTwice,
    example,
    several_inputs,
)
from rewrite.placing.placements import at_random, in_a_row, leaves_of, run_segments, same, values_of
from torch import Tensor, nn

import graphopt
from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.placing.segments import cut
from graphopt.rewrite.placing.staging import completed, stage

Call = tuple[tuple[Any, ...], dict[str, Any]]


def _only(*shape: int) -> Callable[[int], Call]:
    return lambda rows: ((example(rows, *shape),), {})


CASES: dict[str, tuple[type, Callable[[int], Call], tuple[int, ...]]] = {
    "chain": (Chain, _only(WIDTH), (2, 5)),
    "timed": (Timed, lambda rows: ((example(rows, WIDTH), torch.arange(rows)), {}), (2, 3)),
    "sizes": (Sizes, _only(WIDTH), (2, 4)),
    "several": (Several, several_inputs, (2, 3)),
    "masked": (
        Several,
        lambda rows: (
            (*several_inputs(rows)[0], example(rows, WIDTH, seed=2)),
            several_inputs(rows)[1],
        ),
        (2, 3),
    ),
    "tied": (Tied, _only(WIDTH), (2, 3)),
    "static": (Static, _only(WIDTH), (2,)),
    "tokens": (Tokens, lambda rows: ((torch.arange(rows * 3).reshape(rows, 3) % 7, torch.rand(WIDTH)), {}), (2, 4)),
}


@cache
def program(name: str) -> Program:
    torch.manual_seed(0)
    model, call, (rows, *_) = CASES[name]
    args, kwargs = call(rows)
    return graphopt.capture(model().eval(), args, kwargs)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12)
@given(
    devices=st.integers(1, 4),
    sampler=st.integers(0, 3),
    seed=st.integers(0, 10**6),
    repeated=st.sampled_from([0.0, 0.4]),
)
def test_any_map_gives_the_same_bits(name: str, devices: int, sampler: int, seed: int, repeated: float) -> None:
    whole = program(name)
    placed = stage(whole, at_random(whole, devices, seed, repeated=repeated), sampler % devices)
    for rows in CASES[name][2]:
        args, kwargs = CASES[name][1](rows)
        expected = leaves_of(whole(*args, **kwargs))
        assert same(leaves_of(placed.program(*args, **kwargs)), expected)
        _, found = run_segments(placed, args, kwargs)
        assert same(found, expected)


@pytest.mark.parametrize("name", CASES)
def test_the_output_is_built_as_the_model_builds_it(name: str) -> None:
    args, kwargs = CASES[name][1](2)
    whole = program(name)
    given_back = stage(whole, in_a_row(whole, 2)).program(*args, **kwargs)
    spec = torch.utils._pytree.tree_structure
    assert spec(given_back) == spec(whole(*args, **kwargs))


def test_repeated_nodes_are_computed_on_each_device_and_not_sent() -> None:
    whole = program("timed")
    names = values_of(whole)
    side = names[: names.index("sigmoid") + 1]
    rest = [name for name in names if name not in side]
    placed = stage(whole, [[*side, *rest[:3]], [*side, *rest[3:]]])
    cutting, _ = run_segments(placed, *CASES["timed"][1](2))
    assert [placed.sites[name].device for name in ("sigmoid", "sigmoid_on_1")] == [0, 1]
    assert not [edge for edge in cutting.phases["sync"].edges if edge.value.startswith("sigmoid")]


def test_the_first_copy_of_a_node_keeps_its_name() -> None:
    whole = program("timed")
    placed = stage(whole, [values_of(whole), values_of(whole)], sampler=1)
    kept = {node.name for node in placed.program.graph_module.graph.nodes if node.op == "call_function"}
    assert {name for name in kept if not name.endswith("_on_1")} <= set(values_of(whole)) | {"sym_size_int"}
    mixed = stage(whole, at_random(whole, 3, 7, repeated=0.6))
    assert set(values_of(whole)) & set(mixed.sites) == {
        name for name in mixed.sites if name.partition("_on_")[0] == name
    }


def test_parameters_are_shared() -> None:
    whole = program("tied")
    placed = stage(whole, in_a_row(whole, 2))
    for name, tensor in placed.program.parameters.items():
        assert tensor.data_ptr() == whole.parameters[name].data_ptr()


def test_a_node_without_a_device_is_refused() -> None:
    whole = program("chain")
    with pytest.raises(PlanError, match="tanh has no device; give every node of the program one"):
        stage(whole, [[name for name in values_of(whole) if name != "tanh"]])


def test_results_picked_on_another_device_are_refused() -> None:
    whole = program("several")
    names = values_of(whole)
    split = next(name for name in names if name.startswith("split"))
    with pytest.raises(PlanError, match=r"gives several tensors on device 1 .* place an operator together"):
        stage(whole, [[name for name in names if name != split], [split]])


def test_completing_gives_every_node_a_device() -> None:
    whole = program("several")
    names = values_of(whole)
    split = next(name for name in names if name.startswith("split"))
    found = completed(whole, [[name for name in names if name != split], [split, "no_such_node"]])
    assert sorted(name for device in found for name in device) == sorted(names)
    args, kwargs = several_inputs()
    assert same(run_segments(stage(whole, found), args, kwargs)[1], leaves_of(whole(*args, **kwargs)))


@settings(max_examples=20)
@given(known=st.sets(st.integers(0, 12)), seed=st.integers(0, 1000))
def test_completing_part_of_an_assignment_never_fails(known: set[int], seed: int) -> None:
    whole = program("timed")
    assigned = [
        [name for name in names if int(name.encode().hex(), 16) % 13 in known] for names in at_random(whole, 3, seed)
    ]
    args, _ = CASES["timed"][1](2)
    found = completed(whole, assigned)
    assert all(set(before) <= set(after) for before, after in zip(assigned, found, strict=True))
    assert same(run_segments(stage(whole, found), args)[1], leaves_of(whole(*args)))


@pytest.mark.parametrize("model", [Written, WrittenTwice])
@pytest.mark.parametrize("seed", range(12))
def test_what_shares_written_memory_is_brought_together(model: type[nn.Module], seed: int) -> None:
    torch.manual_seed(0)
    whole = graphopt.capture(model().eval(), (example(2, WIDTH),))
    expected = leaves_of(whole(example(2, WIDTH)))
    placed = stage(whole, completed(whole, at_random(whole, 3, seed)))
    assert same(leaves_of(placed.program(example(2, WIDTH))), expected)
    assert same(run_segments(placed, (example(2, WIDTH),))[1], expected)


def test_written_memory_on_two_devices_is_refused() -> None:
    torch.manual_seed(0)
    whole = graphopt.capture(Written().eval(), (example(2, WIDTH),))
    names = values_of(whole)
    with pytest.raises(PlanError, match=r"is written to in place and shared by the devices \[0, 1\]"):
        stage(whole, [[name for name in names if name != "copy_"], ["copy_"]])


def test_writers_that_wait_for_each_other_are_refused() -> None:
    """Between two writes on one device another one computes from the first what the second needs."""

    class Waiting(WrittenTwice):
        def forward(self, x: Tensor) -> Tensor:
            first, second, third = self.maps
            hidden = first(x)
            row = hidden[:, :2]
            row.mul_(second(hidden.clone())[:, :2])
            return third(hidden)

    whole = graphopt.capture(Waiting().eval(), (example(2, WIDTH),))
    away = [name for name in values_of(whole) if name == "linear_1"]
    with pytest.raises(PlanError, match="wait for each other over other devices"):
        cut({"sync": stage(whole, [[name for name in values_of(whole) if name not in away], away])})


def test_a_size_among_the_outputs_is_refused() -> None:
    class Sized(Chain):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return super().forward(x), x.shape[0]

    whole = graphopt.capture(Sized().eval(), (example(2, WIDTH),))
    with pytest.raises(PlanError, match="is no tensor; let the model return tensors alone"):
        stage(whole, in_a_row(whole, 2))


@pytest.mark.parametrize("away", [["linear"], ["add", "linear_1"], ["add_"]])
def test_state_is_written_to_where_it_is(away: list[str]) -> None:
    torch.manual_seed(0)
    whole = graphopt.capture(State().eval(), (example(2, WIDTH),))
    placed = stage(whole, [away, [name for name in values_of(whole) if name not in away]])
    placed.program.parameters["count"].zero_()
    expected = leaves_of(placed.program(example(2, WIDTH)))
    placed.program.parameters["count"].zero_()
    assert same(run_segments(placed, (example(2, WIDTH),))[1], expected)


def test_state_that_two_devices_hold_is_refused() -> None:
    class Read(State):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * self.count)

    whole = graphopt.capture(Read().eval(), (example(2, WIDTH),))
    names = values_of(whole)
    with pytest.raises(PlanError, match=r"is written to in place and shared by the devices \[0, 1\]"):
        stage(whole, [names[:1], names[1:]])
