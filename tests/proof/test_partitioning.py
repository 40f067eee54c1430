"""The check of partitions: it passes what is right and names what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from rewrite.placing.networks import WIDTH, Mean, State, Timed, Written, example
from rewrite.placing.placements import in_a_row, values_of
from torch import fx, nn

import graphopt
from graphopt.errors import VerificationError
from graphopt.program import Program
from graphopt.proof.partitioning import ROUNDING, check_partition, relative_error
from graphopt.rewrite.placing.batching import split_batch
from graphopt.rewrite.placing.delaying import delay_edges
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.segments import Cutting, cut
from graphopt.rewrite.placing.staging import completed, stage
from graphopt.stages import STEADY, SYNC, Mode, Partition, Site

Case = tuple[dict[str, Program], Partition, dict[str, Placed], Cutting]


def captured(model: type[nn.Module]) -> Program:
    torch.manual_seed(0)
    inputs = (example(4, WIDTH), torch.arange(4)) if model is Timed else (example(4, WIDTH),)
    return graphopt.capture(model().eval(), inputs)


def case(mode: Mode = "pipeline", model: type[nn.Module] = Timed, parts: int = 1) -> Case:
    program = captured(model)
    placed = stage(program, completed(program, in_a_row(program, 2)))
    if parts > 1:
        placed = split_batch(placed, parts, lambda site, part: Site(site.device, part))
    stages = {SYNC: placed}
    if mode == "async":
        stages = dict.fromkeys((SYNC, STEADY), delay_edges(placed, extrapolate=0.5))
    cutting = cut(stages)
    delays = next(iter(stages.values())).delays
    partition = Partition(
        mode, 2, 0, ((),), cutting.phases, delays, micro_batches=parts, warm_up=1 if mode == "async" else 0
    )
    return {"main": program}, partition, stages, cutting


def broken(modules: Mapping[tuple[str, str], fx.GraphModule], phase: str) -> dict[tuple[str, str], fx.GraphModule]:
    """The same segments, but one hyperbolic tangent is a sine."""
    changed = dict(modules)
    for key, module in modules.items():
        found = [node for node in module.graph.nodes if node.target is torch.ops.aten.tanh.default]
        if key[0] == phase and found:
            found[0].target = torch.ops.aten.sin.default
            module.recompile()
            return changed
    raise LookupError("no tanh")


def test_a_pipeline_is_exact() -> None:
    checks = check_partition(*case())
    assert [(one.law, one.error) for one in checks] == [
        ("partition equals the program", 0.0),
        ("segments equal the placed graph", 0.0),
    ]


def test_late_phases_are_compared_segment_by_segment() -> None:
    checks = check_partition(*case("async"))
    assert [one.detail.partition(",")[0] for one in checks] == ["phase sync", "phase sync", "phase steady"]


def test_parts_of_the_batch_may_round() -> None:
    first, _ = check_partition(*case(parts=2))
    assert 0 <= first.error <= ROUNDING


@pytest.mark.parametrize("model", [Written, State])
def test_what_is_written_to_is_as_it_was(model: type[nn.Module]) -> None:
    programs, *rest = case(model=model)
    before = {name: tensor.clone() for name, tensor in programs["main"].parameters.items()}
    inputs = [tensor.clone() for tensor in programs["main"].args]
    check_partition(programs, *rest)
    assert all(torch.equal(tensor, before[name]) for name, tensor in programs["main"].parameters.items())
    assert all(map(torch.equal, inputs, programs["main"].args))


def test_rows_that_are_mixed_are_found() -> None:
    with pytest.raises(VerificationError, match=r"a step of phase sync over the devices is \d\.\d+e.* at most 1e-04"):
        check_partition(*case(model=Mean, parts=2))


def test_another_program_is_found() -> None:
    programs, *rest = case()
    with torch.no_grad():
        other = captured(Timed)
        other = replace(other, graph_module=other.graph_module)
        for tensor in other.parameters.values():
            tensor.add_(0.01)
    with pytest.raises(VerificationError, match="away from the program, wanted no difference"):
        check_partition({"main": other}, *rest)
    assert programs["main"].parameters.keys() == other.parameters.keys()


@pytest.mark.parametrize("phase", [SYNC, STEADY])
def test_wrong_segments_are_found(phase: str) -> None:
    programs, partition, stages, cutting = case("async")
    wrong = Cutting(cutting.phases, broken(cutting.modules, phase))
    with pytest.raises(VerificationError, match=f"segments of the partition do not give .* in phase {phase}"):
        check_partition(programs, partition, stages, wrong)


@pytest.mark.parametrize("change", [{"extrapolate": 1.0}, {"extrapolate": 0.0}])
def test_another_extrapolation_is_found(change: dict[str, float]) -> None:
    programs, partition, stages, cutting = case("async")
    delays = tuple(replace(delay, **change) for delay in partition.delays)
    with pytest.raises(VerificationError, match="in phase steady"):
        check_partition(programs, replace(partition, delays=delays), stages, cutting)


def test_reading_what_is_not_late_is_found() -> None:
    """Steady steps that wait for values of the present step are another computation."""
    programs, partition, stages, cutting = case("async")
    phases = {SYNC: cutting.phases[SYNC], STEADY: cutting.phases[SYNC]}
    modules = {(phase, id_): module for phase in phases for (of, id_), module in cutting.modules.items() if of == SYNC}
    with pytest.raises(VerificationError, match="in phase steady"):
        check_partition(programs, replace(partition, phases=phases), stages, Cutting(phases, modules))


def test_a_phase_without_a_program_is_told() -> None:
    programs, *rest = case()
    with pytest.raises(VerificationError, match="found the phase sync and no program for it"):
        check_partition({"full": programs["main"]}, *rest)


def test_every_value_has_a_device() -> None:
    program = captured(Timed)
    assert sorted(name for names in in_a_row(program, 2) for name in names) == sorted(values_of(program))


def test_relative_errors_by_hand() -> None:
    wanted = torch.tensor([3.0, 4.0])
    assert relative_error(wanted, wanted.clone()) == 0.0
    assert relative_error(wanted, torch.tensor([3.0, 4.5])) == pytest.approx(0.1)
    assert relative_error(torch.zeros(2), torch.tensor([0.0, 2.0])) == 2.0
    assert relative_error(torch.tensor([torch.nan]), torch.tensor([torch.nan])) == 0.0
    assert not relative_error(torch.tensor([1.0]), torch.tensor([torch.nan])) <= ROUNDING
