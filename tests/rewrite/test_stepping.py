"""The programs of a schedule: tables, probes, inputs that they no longer read, and an oracle that plays them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from caching.interpreter import Interpreter
from caching.normed import normed_program
from caching.tiny import stack_program, tokens
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.cuts import Cut
from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.fusing.programs import fuse
from graphopt.rewrite.stepping import (
    full_and_cached,
    masked_programs,
    probing_schedule,
    step_programs,
    still_read,
    table_schedule,
    trimmed,
)
from graphopt.runtime.session import CacheSession
from graphopt.schedule import Every, Listed, Schedule, Slot, StepProgram, Threshold

CUTS = ("linear_5", "linear_1:add_1", "mul_3", "add_1:add_3", "linear_13", "linear_1:add_3", "add_3:add_5", "tanh")


@cache
def program() -> Program:
    return stack_program()


def slots_of(cuts: Sequence[str]) -> dict[str, Slot]:
    return {f"cache_{number}": Slot(Cut.parse(cut)) for number, cut in enumerate(cuts)}


def session_of(schedule: Schedule, one: Program | None = None) -> CacheSession:
    made = step_programs(one or program(), schedule, allow_dead=("*",))
    return CacheSession(SimpleNamespace(programs=made, schedule=schedule))


def rows_of(text: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(f"cache_{place}" for place, digit in enumerate(row) if digit == "1") for row in text]


@st.composite
def tables(draw: st.DrawFn) -> tuple[tuple[str, ...], tuple[str, ...]]:
    cuts = draw(st.lists(st.sampled_from(CUTS), min_size=1, max_size=3, unique_by=lambda cut: Cut.parse(cut).value))
    row = st.text("01", min_size=len(cuts), max_size=len(cuts))
    return tuple(cuts), ("0" * len(cuts), *draw(st.lists(row, min_size=2, max_size=4)))


@settings(max_examples=12)
@given(tables())
def test_a_table_is_played_as_on_the_whole_graph(case: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    cuts, table = case
    session = session_of(table_schedule(slots_of(cuts), rows_of(table)))
    oracle = Interpreter(program(), [Cut.parse(cut) for cut in cuts])
    for step, row in enumerate(table):
        reads = frozenset(Cut.parse(cut).value for cut, digit in zip(cuts, row, strict=True) if digit == "1")
        assert torch.equal(session(*tokens(step)), oracle.step(reads, *tokens(step))), (step, row)


def test_the_oracle_tells_a_cached_step_from_a_full_one() -> None:
    oracle = Interpreter(program(), [Cut("add_3", "add_1")])
    assert torch.equal(oracle.step(frozenset(), *tokens(0)), program()(*tokens(0)))
    assert not torch.equal(oracle.step(frozenset({"add_3"}), *tokens(4)), program()(*tokens(4)))


def test_a_step_fills_only_what_the_next_one_reads() -> None:
    slots = slots_of(["linear_5", "linear_9", "linear_13"])
    schedule = table_schedule(slots, rows_of(["000", "110", "011", "111", "000", "100"]))
    assert schedule.policy == Listed(("full", "cached-0", "cached-1", "cached-2", "full", "cached-3"))
    found = {name: (step.reads, step.writes) for name, step in schedule.programs.items()}
    assert found == {
        "full": ((), ("cache_0", "cache_1", "cache_2")),
        "cached-0": (("cache_0", "cache_1"), ("cache_2",)),
        "cached-1": (("cache_1", "cache_2"), ("cache_0",)),
        "cached-2": (("cache_0", "cache_1", "cache_2"), ()),
        "cached-3": (("cache_0",), ()),
    }


def test_equal_masks_are_one_program() -> None:
    slots = slots_of(["linear_5", "linear_9"])
    one = (frozenset({"cache_1"}), frozenset({"cache_0"}))
    assert list(masked_programs(slots, [one, (frozenset(), frozenset()), one])) == ["full", "cached"]


def test_probe_and_tails_are_the_full_step_in_two_parts() -> None:
    policy = Threshold(0.1)
    schedule = probing_schedule(program(), [Cut("add_5", "add_1")], Cut("add_1", "linear_1"), policy)
    made = step_programs(program(), schedule)
    whole = program()(*tokens())
    output, filled = made["full"](*tokens())
    assert torch.equal(output, whole)
    nothing, found = made["probe"](*tokens(), probe_0=filled["probe_0"])
    assert nothing == ()
    assert float(found["cache_distance"]) == 0
    assert torch.equal(found["probe_0"], filled["probe_0"])
    handed = {name: tensor for name, tensor in found.items() if name.startswith("carry_")}
    output, renewed = made["tail-full"](*tokens(), **handed)
    assert torch.equal(output, whole)
    assert torch.equal(renewed["cache_0"], filled["cache_0"])
    carried = {name: handed[name] for name in schedule.inputs("tail-cached") if name in handed}
    output, _ = made["tail-cached"](*tokens(), **carried, **renewed)
    torch.testing.assert_close(output, whole, rtol=0, atol=1e-6)


def test_nothing_is_computed_in_both_parts_of_a_step() -> None:
    schedule = probing_schedule(program(), [Cut("add_5", "add_1")], Cut("add_1", "linear_1"), Threshold(0.1))
    made = step_programs(program(), schedule)
    linears = {
        name: sum(str(node.target) == "aten.linear.default" for node in one.nodes()) for name, one in made.items()
    }
    assert linears == {"full": 15, "probe": 6, "tail-full": 9, "tail-cached": 1}


def test_the_distance_is_relative_to_what_is_stored() -> None:
    schedule = probing_schedule(program(), [Cut("add_5", "add_1")], Cut("add_1", "linear_1"), Threshold(0.1))
    probe = step_programs(program(), schedule)["probe"]
    stored = torch.full((2, 5, 16), 2.0)
    _, found = probe(*tokens(), probe_0=stored)
    expected = (found["probe_0"] - stored).abs().mean() / 2
    torch.testing.assert_close(found["cache_distance"], expected)


@pytest.mark.parametrize(
    ("cuts", "probe"),
    [(["add_5"], "linear_1:add_1"), (["add_1:add_5"], "add_1"), (["add_1:add_99"], "linear_1:add_1")],
)
def test_a_probe_wants_residual_cuts_of_the_program(cuts: list[str], probe: str) -> None:
    with pytest.raises(PlanError, match="a probe needs residual cuts between values of the program"):
        probing_schedule(program(), [Cut.parse(cut) for cut in cuts], Cut.parse(probe), Threshold(0.1))


@pytest.mark.parametrize(
    ("cut", "lost", "others"),
    [("linear_1:add_5", "timestep", "timestep,text"), ("linear_14", "sample", "sample,timestep,text")],
)
def test_an_input_that_nobody_reads_any_more_is_an_error_that_names_it(cut: str, lost: str, others: str) -> None:
    slots = slots_of([cut])
    schedule = Schedule(slots, full_and_cached(slots), Every(2))
    with pytest.raises(PlanError) as caught:
        step_programs(program(), schedule)
    assert str(caught.value).startswith(f"the input {lost} is not read in cached steps")
    assert f"allow_dead=[{others}]" in str(caught.value)
    with pytest.raises(PlanError, match="the input text is not read"):
        step_programs(program(), schedule, allow_dead=("time*", "sample"))
    assert set(step_programs(program(), schedule, allow_dead=("t*", "sample"))) == {"full", "cached"}


def test_whether_a_step_still_looks_at_an_input() -> None:
    assert still_read(program(), [Cut("add_5", "linear_1")], "sample")
    assert not still_read(program(), [Cut("add_5", "linear_1")], "text")
    assert not still_read(program(), [Cut("add_5")], "sample")
    assert still_read(program(), [Cut("linear_13"), Cut("linear_9")], "text")


def test_slots_that_a_program_does_not_need_are_not_read() -> None:
    slots = {
        **slots_of(["linear_5", "add_3"]),
        "carry_0": Slot(Cut("tanh"), lasting=False),
        "carry_1": Slot(Cut("linear_10"), lasting=False),
    }
    programs = {
        "full": StepProgram(writes=tuple(slots)),
        "cached": StepProgram(reads=("cache_0", "cache_1", "carry_0", "carry_1")),
    }
    found = trimmed(program(), Schedule(slots, programs, Every(2)))
    assert found.programs["cached"].reads == ("cache_1", "carry_1")
    assert found.programs["full"].writes == ("cache_0", "cache_1", "carry_1")
    assert list(found.slots) == ["cache_0", "cache_1", "carry_1"]


def test_weights_that_a_trained_program_has_are_those_of_its_cached_ones() -> None:
    own = stack_program()
    slots = slots_of(["add_1:add_3"])
    session = session_of(Schedule(slots, full_and_cached(slots), Every(2)), own)
    before = session(*tokens()).clone()
    with torch.no_grad():
        own.parameters["head.bias"].add_(1)
    torch.testing.assert_close(session(*tokens()), before + 1, rtol=0, atol=1e-5)


def test_numbers_are_made_where_the_predicted_values_are() -> None:
    one = normed_program()
    module = copy.deepcopy(one.graph_module).to("meta")
    schedule = Schedule({"cache_0": Slot(Cut("linear_2"), order=1)}, {}, Every(3))
    schedule = replace(schedule, programs=full_and_cached(schedule.slots))
    given = [tensor.to("meta") for tensor in one.args]
    made = step_programs(graphopt.capture(module, tuple(given)), schedule, allow_dead=("*",))
    assert {name: tensor.device.type for name, tensor in made["cached"].kwargs.items()} == dict.fromkeys(
        ("cache_0", "cache_0_d1", "cache_elapsed"), "meta"
    )
    fused = fuse(made["cached"], schedule, "cached", ["taylor_add", "cached_apply"])
    assert [fusion.kernel for fusion in fused.fusions] == ["taylor_add", "cached_apply"]
    assert fused.refused == ()
