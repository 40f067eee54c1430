"""Segments: every operator in one of them, every message once, everything there when it is read."""

from collections import Counter
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite.placing.networks import (
    WIDTH,
    Chain,
    Several,
    Sizes,
    Tied,
    Timed,
    example,
    several_inputs,
)
from rewrite.placing.placements import at_random, in_a_row, leaves_of, run_segments, same, values_of
from torch import Tensor, nn

import graphopt
from graphopt.program import Program
from graphopt.rewrite.placing.delaying import delay_edges
from graphopt.rewrite.placing.segments import cut
from graphopt.rewrite.placing.staging import stage
from graphopt.stages import STEADY, SYNC, Edge, Partition, Phase

INPUTS = {
    Timed: ((example(2, WIDTH), torch.arange(2)), {}),
    Several: several_inputs(),
}


@cache
def program(model: type[nn.Module]) -> Program:
    torch.manual_seed(0)
    args, kwargs = INPUTS.get(model, ((example(2, WIDTH),), {}))
    return graphopt.capture(model().eval(), args, kwargs)


def require_sound(phase: Phase, sampler: int, inputs: set[str], kept: set[tuple[str, int]], late: set[str]) -> None:
    """Play the names of a phase: nothing is read that is not there, nothing is sent or given out for nobody."""
    there = {(name, sampler) for name in inputs} | {(name, device) for name, device in kept if name in late}
    owner = dict.fromkeys(inputs, sampler) | dict(kept)
    owner |= {name: segment.device for segment in phase.segments for name in segment.outputs}
    sent = {(edge.value, edge.target): edge.source for edge in phase.edges}
    assert len(sent) == len(phase.edges), "a value goes to a device once"
    assert all(owner[value] == source != target for (value, target), source in sent.items())
    arrived = [(edge.value, edge.target) for edge in phase.edges if (edge.value, edge.source) in there]
    there |= set(arrived)
    for segment in phase.segments:
        missing = [name for name in segment.inputs if (name, segment.device) not in there]
        assert not missing, f"{segment.id} reads {missing}"
        there |= {(name, segment.device) for name in segment.outputs}
        there |= {(value, target) for value, target in sent if value in segment.outputs}
    assert all((name, sampler) in there for name in phase.outputs)


@pytest.mark.parametrize("model", [Chain, Timed, Sizes, Several, Tied])
@settings(max_examples=10)
@given(devices=st.integers(1, 4), seed=st.integers(0, 10**6), late=st.booleans())
def test_segments_and_edges_are_sound(model: type[nn.Module], devices: int, seed: int, late: bool) -> None:
    whole = program(model)
    placed = stage(whole, at_random(whole, devices, seed), seed % devices)
    placed = delay_edges(placed) if late else placed
    delays = {delay.name for delay in placed.delays}
    computed = {name for name in placed.sites if name not in delays}
    inputs = {node.name for node in whole.graph_module.graph.find_nodes(op="placeholder")}
    phases = cut({SYNC: placed, STEADY: placed}).phases if late else cut({SYNC: placed}).phases
    for name, phase in phases.items():
        counts = Counter(node for segment in phase.segments for node in segment.nodes)
        assert set(counts) == computed
        assert set(counts.values()) == {1}
        kept = {(delay.name, delay.device) for delay in placed.delays}
        require_sound(phase, placed.sampler, inputs, kept, delays if name == STEADY else set())


def test_a_linear_placement_has_a_segment_a_device() -> None:
    whole = program(Chain)
    phase = cut({SYNC: stage(whole, [["linear", "tanh"], ["linear_1", "tanh_1"], ["linear_2"]])}).phases[SYNC]
    assert [(one.id, one.inputs, one.outputs, one.nodes) for one in phase.segments] == [
        ("0.0", ("x",), ("tanh",), ("linear", "tanh")),
        ("1.0", ("tanh",), ("tanh_1",), ("linear_1", "tanh_1")),
        ("2.0", ("tanh_1",), ("linear_2",), ("linear_2",)),
    ]
    assert phase.edges == tuple(
        Edge(name, source, target, (2, WIDTH), "float32", (0, 1), 4 * 2 * WIDTH)
        for name, source, target in (("tanh", 0, 1), ("tanh_1", 1, 2), ("linear_2", 2, 0))
    )
    assert phase.outputs == ("linear_2",)
    assert phase.size_bytes == 3 * 4 * 2 * WIDTH


def test_in_steady_steps_nobody_waits() -> None:
    whole = program(Chain)
    placed = delay_edges(stage(whole, [["linear", "tanh"], ["linear_1", "tanh_1"], ["linear_2"]]))
    phases = cut({SYNC: placed, STEADY: placed}).phases
    assert [segment.inputs for segment in phases[STEADY].segments] == [("x",), ("tanh_late_1",), ("tanh_1_late_2",)]
    assert [(edge.value, edge.delay) for edge in phases[STEADY].edges] == [("tanh", 1), ("tanh_1", 1), ("linear_2", 0)]
    assert [(edge.value, edge.delay) for edge in phases[SYNC].edges] == [("tanh", 0), ("tanh_1", 0), ("linear_2", 0)]


def test_a_device_with_nothing_to_do() -> None:
    whole = program(Chain)
    placed = stage(whole, [[], values_of(whole), []], sampler=2)
    cutting, found = run_segments(placed, (example(2, WIDTH),))
    assert [segment.device for segment in cutting.phases[SYNC].segments] == [1]
    assert [(edge.value, edge.source, edge.target) for edge in cutting.phases[SYNC].edges] == [
        ("x", 2, 1),
        ("linear_2", 1, 2),
    ]
    assert same(found, leaves_of(whole(example(2, WIDTH))))


def test_sizes_are_asked_of_tensors_that_are_there() -> None:
    """The batch is asked of x, which the second device never gets; it works for other batches none the less."""
    whole = program(Sizes)
    names = values_of(whole)
    placed = stage(whole, [names[:1], names[1:]])
    for rows in (2, 3, 7):
        cutting, found = run_segments(placed, (example(rows, WIDTH),))
        assert same(found, leaves_of(whole(example(rows, WIDTH))))
    assert [edge.value for edge in cutting.phases[SYNC].edges if edge.target == 1] == ["linear"]


def test_a_size_that_no_tensor_has_is_asked_of_the_one_that_has_it() -> None:
    whole = program(Sizes)
    first, second = "reshape", "reshape_1"
    placed = stage(whole, [[name for name in values_of(whole) if name != second], [second]])
    phase = cut({SYNC: placed}).phases[SYNC]
    assert {edge.value for edge in phase.edges if edge.target == 1} >= {first}
    assert same(run_segments(placed, (example(5, WIDTH),))[1], leaves_of(whole(example(5, WIDTH))))


def test_tied_weights_are_held_where_they_are_read_and_shared_there() -> None:
    whole = program(Tied)
    cutting = cut({SYNC: stage(whole, in_a_row(whole, 2))})
    weights = [
        tensor.data_ptr()
        for module in cutting.modules.values()
        for name, tensor in module.named_parameters()
        if name.endswith("weight")
    ]
    assert set(weights) == {whole.parameters["maps.0.weight"].data_ptr()}


def test_a_device_holds_only_what_it_reads() -> None:
    whole = program(Chain)
    cutting = cut({SYNC: stage(whole, [["linear", "tanh"], ["linear_1", "tanh_1", "linear_2"]])})
    held = {key[1]: sorted(name for name, _ in module.named_parameters()) for key, module in cutting.modules.items()}
    assert held == {
        "0.0": ["maps.0.bias", "maps.0.weight"],
        "1.0": ["maps.1.bias", "maps.1.weight", "maps.2.bias", "maps.2.weight"],
    }


def test_an_edge_tells_how_its_tensor_lies_in_memory() -> None:
    class Transposed(Chain):
        def forward(self, x: Tensor) -> Tensor:
            turned = super().forward(x).reshape(-1, 1, 2, 2).transpose(1, 3)
            return self.maps[0](turned.reshape(-1, WIDTH))

    whole = graphopt.capture(Transposed().eval(), (example(2, WIDTH),))
    names = values_of(whole)
    place = next(place for place, name in enumerate(names) if name.startswith("transpose"))
    placed = stage(whole, [names[: place + 1], names[place + 1 :]])
    cutting, found = run_segments(placed, (example(3, WIDTH),))
    assert same(found, leaves_of(whole(example(3, WIDTH))))
    edge = next(edge for edge in cutting.phases[SYNC].edges if edge.value == names[place])
    assert edge.shape == (2, 2, 2, 1)
    assert edge.order == (0, 3, 2, 1)


def test_outputs_that_are_inputs_need_no_segment() -> None:
    class Same(Chain):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, super().forward(x)

    whole = graphopt.capture(Same().eval(), (example(2, WIDTH),))
    cutting, found = run_segments(stage(whole, in_a_row(whole, 2)), (example(2, WIDTH),))
    assert cutting.phases[SYNC].outputs[0] == "x"
    assert same(found, leaves_of(whole(example(2, WIDTH))))


def test_a_constant_output_is_made_where_the_outputs_are() -> None:
    class Constant(Tied):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return super().forward(x), self.shift, torch.arange(3)

    whole = graphopt.capture(Constant().eval(), (example(2, WIDTH),))
    for sampler in (0, 1):
        _, found = run_segments(stage(whole, in_a_row(whole, 2), sampler), (example(2, WIDTH),))
        assert same(found, leaves_of(whole(example(2, WIDTH))))


def test_phases_of_a_partition_are_what_was_cut() -> None:
    whole = program(Timed)
    placed = delay_edges(stage(whole, in_a_row(whole, 2)))
    phases = cut({SYNC: placed, STEADY: placed}).phases
    partition = Partition("async", 2, 0, ((), ()), phases, placed.delays, warm_up=1)
    assert Partition.from_dict(partition.to_dict()).phases == phases
