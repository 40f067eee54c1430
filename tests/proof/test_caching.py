"""The laws of cached programs hold, and each one fails where a program, a schedule or the sharing is broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from caching.tiny import stack_program
from torch import fx

import graphopt
from graphopt.copying import copy_graph
from graphopt.cuts import Cut
from graphopt.errors import VerificationError
from graphopt.program import Program
from graphopt.proof.caching import check_programs
from graphopt.schedule import Schedule

SPECS = [
    "insert-cache{cuts=[add_1:add_3],schedule=uniform:3}",
    "insert-cache{cuts=[linear_9,linear_13],table=[00,10,11,01]}",
    "insert-cache{cuts=[linear_13],schedule=uniform:3,predictor=taylor:2}",
    "first-block{threshold=0.1}",
    "first-block{threshold=0.1},hoist-invariants",
    "hoist-invariants",
]


@cache
def result_of(spec: str) -> graphopt.Result:
    return graphopt.Pipeline(spec).run(stack_program())


def parts(spec: str) -> tuple[Program, Schedule, dict[str, Program]]:
    result = result_of(spec)
    assert result.schedule is not None
    return result.program, result.schedule, dict(result.programs)


@pytest.mark.parametrize("spec", SPECS)
def test_the_laws_hold(spec: str) -> None:
    checks = {check.law: check for check in check_programs(*parts(spec))}
    assert checks["identity of full steps"].error == 0
    assert checks["same step"].error < 1e-5
    assert checks["replay of programs"].detail.startswith(f"{len(parts(spec)[2])} programs")
    assert {check.law for check in graphopt.verify(result_of(spec).program, result_of(spec)).checks} > {"same step"}


def changed(program: Program, target: object, factor: float) -> Program:
    """A program in which the last result of an operator is scaled."""
    duplicate = copy_graph(program.graph_module)
    node = next(node for node in reversed(duplicate.graph.nodes) if node.target is target)
    with duplicate.graph.inserting_after(node):
        scaled: fx.Node = duplicate.graph.call_function(torch.ops.aten.mul.Scalar, (node, factor))
    scaled.meta["val"] = node.meta["val"]
    for user in [user for user in node.users if user is not scaled]:
        user.replace_input_with(node, scaled)
    return replace(program, graph_module=duplicate.assemble())


LINEAR = torch.ops.aten.linear.default


@pytest.mark.parametrize(
    ("spec", "name", "message"),
    [
        (SPECS[0], "full", "identity of full steps: the full program gives other outputs"),
        (SPECS[0], "cached", "same step: cached, fed with what the same step fills, deviates by"),
        (SPECS[1], "cached-1", "same step: cached-1"),
        (SPECS[2], "refresh", "same step: refresh"),
        (SPECS[3], "tail-full", "same step: tail-full"),
        (SPECS[3], "tail-cached", "same step: tail-cached"),
        (SPECS[3], "probe", "same step: tail-"),
        (SPECS[5], "hoisted-1", "identity of full steps"),
    ],
)
def test_a_program_that_computes_something_else_is_found(spec: str, name: str, message: str) -> None:
    program, schedule, programs = parts(spec)
    programs[name] = changed(programs[name], LINEAR, 1.01)
    with pytest.raises(VerificationError, match=message):
        check_programs(program, schedule, programs)


def test_a_last_bit_of_a_full_step_is_found() -> None:
    program, schedule, programs = parts(SPECS[0])
    programs["full"] = changed(programs["full"], LINEAR, 1 + 2**-22)
    with pytest.raises(VerificationError, match="identity of full steps"):
        check_programs(program, schedule, programs)


def test_a_missing_program_and_one_of_another_schedule_are_found() -> None:
    program, schedule, programs = parts(SPECS[0])
    without: Mapping[str, Program] = {"full": programs["full"]}
    with pytest.raises(VerificationError, match="programs: the schedule names cached, and the result has no such"):
        check_programs(program, schedule, without)
    slot = replace(schedule.slots["cache_0"], cut=Cut("add_3", "linear_1"))
    other = replace(schedule, slots={"cache_0": slot})
    with pytest.raises(VerificationError, match=r"(same step|replay): "):
        check_programs(program, other, programs)
