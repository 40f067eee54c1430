"""The order in which a device computes: what others wait for first, and nobody waits for nothing."""

from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite.placing.networks import WIDTH, Chain, Linears, Timed, example
from rewrite.placing.placements import at_random, in_a_row, run_segments
from torch import Tensor

import graphopt
from graphopt.program import Program
from graphopt.rewrite.placing.batching import split_batch
from graphopt.rewrite.placing.groups import Phased, groups_of
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.staging import stage
from graphopt.stages import Site


class Sends(Linears):
    """The second device reads the first value; the first device goes on with it and reads what came of it."""

    def __init__(self) -> None:
        super().__init__(4)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, fourth = self.maps
        hidden = first(x)
        own = third(second(hidden).tanh()).tanh()
        away = fourth(hidden).sigmoid()
        return own + away


@cache
def program(model: type[Linears]) -> Program:
    torch.manual_seed(0)
    inputs = (example(4, WIDTH), torch.arange(4)) if model is Timed else (example(4, WIDTH),)
    return graphopt.capture(model().eval(), inputs)


def order(placed: Placed) -> list[tuple[int, int, tuple[str, ...]]]:
    groups = groups_of(Phased(placed, steady=False))
    return [(group.site.device, group.site.copy, tuple(node.name for node in group.nodes)) for group in groups]


def test_what_others_wait_for_comes_first() -> None:
    placed = stage(
        program(Sends), [["linear", "linear_1", "tanh", "linear_2", "tanh_1", "add"], ["linear_3", "sigmoid"]]
    )
    assert order(placed) == [
        (0, 0, ("linear",)),
        (0, 0, ("linear_1", "tanh", "linear_2", "tanh_1")),
        (1, 0, ("linear_3", "sigmoid")),
        (0, 0, ("add",)),
    ]


def test_guidance_halves_do_not_wait_for_each_other() -> None:
    everything = in_a_row(program(Chain), 1)
    placed = split_batch(stage(program(Chain), everything), 2, lambda site, part: Site(part, part))
    found = order(placed)
    joined = next(place for place, one in enumerate(found) if any("joined" in name for name in one[2]))
    own = next(place for place, one in enumerate(found) if one[0] == 0 and "linear" in one[2])
    sends = next(place for place, one in enumerate(found) if "x_part_1" in one[2])
    assert sends < own < joined
    cutting, _ = run_segments(placed, (example(4, WIDTH),))
    half = next(one for one in cutting.phases["sync"].segments if "linear" in one.nodes)
    assert not [name for name in half.inputs if name.endswith("part_1")]


def test_micro_batches_follow_each_other_through_the_stages() -> None:
    whole = stage(program(Chain), [["linear", "tanh"], ["linear_1", "tanh_1", "linear_2"]])
    placed = split_batch(whole, 2, lambda site, part: Site(site.device, part))
    found = [
        (device, copy)
        for device, copy, names in order(placed)
        if "joined" not in names[0] and any("linear" in name for name in names)
    ]
    assert [copy for device, copy in found if device == 0] == [0, 1]
    assert [copy for device, copy in found if device == 1] == [0, 1]
    first = run_segments(placed, (example(4, WIDTH),))[0].phases["sync"].of_device(0)
    assert not any("linear_2" in name for segment in first[:2] for name in segment.inputs)


@settings(max_examples=25)
@given(devices=st.integers(1, 4), seed=st.integers(0, 10**6), parts=st.integers(1, 3))
def test_no_group_waits_for_a_later_one(devices: int, seed: int, parts: int) -> None:
    whole = program(Timed)
    placed = stage(whole, at_random(whole, devices, seed))
    if parts > 1:
        placed = split_batch(placed, parts, lambda site, part: Site(site.device, part))
    phased = Phased(placed, steady=False)
    place = {node: number for number, group in enumerate(groups_of(phased)) for node in group.nodes}
    assert set(place) == set(phased.computed)
    for node in phased.computed:
        assert all(place[operand] <= place[node] for operand in phased.operands(node) if operand in place)
