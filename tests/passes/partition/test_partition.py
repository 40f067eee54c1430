"""The pass partition: each mode and option once, each refusal once, and what the plan holds."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from caching.tiny import stack, stack_program, tokens
from torch import Tensor, nn

import graphopt
from graphopt.errors import BudgetError, GraphoptError, PlanError, PreconditionError, SpecError, VerificationError
from graphopt.passes.partition.partition import PartitionProgram
from graphopt.passes.partition.resources import read_bytes
from graphopt.stages import STEADY, SYNC, Partition
from passes.partition.resources import partition_of, roofline_file, tall

SCHEMA = json.loads((Path(graphopt.__file__).parent / "plan.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return roofline_file(tmp_path_factory.mktemp("costs"))


def spread(costs: str, options: str, model: tuple[nn.Module, tuple[Tensor, ...]] | None = None) -> graphopt.Result:
    module, args = model or tall()
    return graphopt.optimize(module, args, passes=f'partition{{{options},costs="{costs}"}}')


def layers_by_device(partition: Partition) -> list[int]:
    return [sum(name.startswith("linear") for name in names) for names in partition.assignment]


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_equal_devices_get_equal_shares(costs: str, devices: int) -> None:
    result = spread(costs, f"devices={devices}")
    partition = partition_of(result)
    assert layers_by_device(partition) == [8 // devices] * devices
    assert [share.parameter_bytes for share in partition.shares] == [8 // devices * 4 * (64 * 64 + 64)] * devices
    assert partition.certificate == "unique-order"
    assert len(list(partition.edges())) == (devices if devices > 1 else 0)
    assert partition.micro_batches == 1


def test_the_slowest_share_falls_with_the_devices(costs: str) -> None:
    found = [partition_of(spread(costs, f"devices={devices}")) for devices in (1, 2, 4)]
    slowest = [max(share.seconds for share in partition.shares) for partition in found]
    assert slowest == pytest.approx([slowest[0], slowest[0] / 2, slowest[0] / 4], rel=0.01)


def test_one_sample_is_no_faster_in_a_pipeline_but_is_with_late_values(costs: str) -> None:
    alone, pipeline, late = (
        partition_of(spread(costs, options)).step_seconds
        for options in ("devices=1", "devices=2", "devices=2,mode=async")
    )
    assert pipeline > alone > 1.5 * late


def test_more_devices_than_operators_are_refused(costs: str) -> None:
    with pytest.raises(PreconditionError, match=r"found 4 devices for 2 items, .* use fewer devices"):
        spread(costs, "devices=4", tall(1))


def test_a_fast_device_gets_more(costs: str) -> None:
    partition = partition_of(spread(costs, "devices=2,speeds=[3.0,1.0]"))
    assert layers_by_device(partition) == [6, 2]
    turned = partition_of(spread(costs, "devices=2,speeds=[1.0,3.0]"))
    assert layers_by_device(turned) == [2, 6]


def test_memory_caps_move_layers(costs: str) -> None:
    layer = 4 * (64 * 64 + 64)
    partition = partition_of(spread(costs, f"devices=2,memory=[{3 * layer + 30000},1MB]"))
    assert layers_by_device(partition)[0] <= 3
    assert partition.shares[0].peak_bytes <= 3 * layer + 30000
    assert sum(layers_by_device(partition)) == 8


def test_the_memory_of_the_device_file_is_a_cap(tmp_path: Path) -> None:
    costs = roofline_file(tmp_path, memory_bytes=20000)
    with pytest.raises(BudgetError, match="within 20,000 bytes"):
        spread(costs, "devices=2")


def test_too_little_memory_is_refused(costs: str) -> None:
    with pytest.raises(BudgetError, match=r"within 20,000 bytes .* give more memory or more devices"):
        spread(costs, "devices=2,memory=20kB")


def test_measured_costs() -> None:
    module, args = tall(2)
    partition = partition_of(graphopt.optimize(module, args, passes="partition{devices=2}"))
    assert sum(layers_by_device(partition)) == 2
    assert 0 < partition.step_seconds < 1


def test_micro_batches(costs: str) -> None:
    result = spread(costs, "devices=2,micro_batches=4")
    partition = partition_of(result)
    assert partition.micro_batches == 4
    copies = [edge for edge in partition.edges() if edge.shape == (4, 64)]
    assert len(copies) >= 4
    assert "partition equals the program" in " ".join(result.report.passes[0].notes)


def test_guidance(costs: str) -> None:
    partition = partition_of(spread(costs, "devices=2,mode=cfg"))
    assert [share.parameter_bytes for share in partition.shares] == [8 * 4 * (64 * 64 + 64)] * 2
    assert sorted((edge.source, edge.target, edge.shape) for edge in partition.edges()) == [
        (0, 1, (8, 64)),
        (1, 0, (8, 64)),
    ]
    four = partition_of(spread(costs, "devices=4,mode=cfg"))
    assert layers_by_device(four)[:2] == [4, 4]
    assert {segment.device for segment in four.phases[SYNC].segments} == {0, 1, 2, 3}


def test_asynchronous(costs: str) -> None:
    partition = partition_of(spread(costs, "devices=2,mode=async,warm_up=3,extrapolate=0.5"))
    assert set(partition.phases) == {SYNC, STEADY}
    assert partition.warm_up == 3
    assert {delay.extrapolate for delay in partition.delays} == {0.5}
    assert partition_of(spread(costs, "devices=2,mode=async")).warm_up == 1


def test_stride_two_takes_a_device_more(costs: str) -> None:
    partition = partition_of(spread(costs, "devices=3,mode=async,stride=2", (stack(), tokens())))
    assert partition.stride == 2
    assert [partition.phase_of(step) for step in range(4)] == ["sync", "steady", "replay", "steady"]


def test_time_shift(costs: str) -> None:
    partition = partition_of(spread(costs, "devices=2,mode=async,time_shift=true", (stack(), tokens())))
    assert partition.time_shift
    assert partition.timestep == "timestep"


def test_an_error_budget_is_kept(costs: str) -> None:
    steps = [tokens(step) for step in range(6)]
    text = f'partition{{devices=2,mode=async,error=0.05,costs="{costs}"}}'
    result = graphopt.Pipeline(text).run(stack_program(), graphopt.PassContext(calibration=steps))
    assert any("chosen" in note for note in result.report.passes[0].notes)


@pytest.mark.parametrize("displaced", ["false", "true"])
def test_patches(costs: str, displaced: str) -> None:
    partition = partition_of(spread(costs, f"devices=2,mode=patch,displaced={displaced}", (stack(), tokens())))
    assert (partition.patches, partition.mode) == (2, "patch")
    assert {segment.device for segment in partition.phases[SYNC].segments} == {0, 1}


def test_the_sample_can_be_named(costs: str) -> None:
    found = partition_of(spread(costs, "devices=2,sample=sample", (stack(), tokens())))
    assert found == partition_of(spread(costs, "devices=2", (stack(), tokens())))


def test_links_come_from_a_file(costs: str, tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="nowhere"):
        spread(costs, f'devices=2,links="{tmp_path / "nowhere.json"}"')


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("devices=0", "a number from 1 up"),
        ("devices=2,micro_batches=0", "a number from 1 up"),
        ("devices=2,mode=async,stride=3", "1 or 2"),
        ("devices=2,mode=async,stride=2", "3 or more"),
        ("devices=3,mode=async,stride=2,error=0.1", "none with stride=2"),
        ("devices=3,mode=async,stride=2,time_shift=true", "none with stride=2"),
        ("devices=2,mode=async,warm_up=0", "a number from 1 up"),
        ("devices=2,mode=async,extrapolate=1.5", "a number from 0 to 1"),
        ("devices=2,mode=async,error=0.0", "a number above 0"),
        ("devices=2,mode=patch,patches=0", "a number from 1 up"),
        ("devices=2,mode=patch,local=-1", "a number from 0 up"),
        ("devices=3,mode=cfg", "an even number with mode=cfg"),
        ("devices=2,mode=sideways", "sideways"),
        ("devices=2,mode=cfg,micro_batches=2", "micro_batches says nothing with mode=cfg"),
        ("devices=2,mode=async,solver_seconds=1.0", "solver_seconds says nothing"),
        ("devices=2,axis=tokens", "axis says nothing"),
        ("devices=2,patches=2", "patches says nothing"),
        ("devices=2,displaced=true", "displaced says nothing"),
        ("devices=2,local=2", "local says nothing"),
        ("devices=2,total=2", "total says nothing"),
        ("devices=2,warm_up=2", "warm_up says nothing"),
        ("devices=2,mode=cfg,stride=2", "says nothing|3 or more"),
        ("devices=2,extrapolate=1.0", "extrapolate says nothing"),
        ("devices=2,time_shift=true", "time_shift says nothing"),
        ("devices=2,error=0.1", "error says nothing"),
        ("mode=async", "devices"),
    ],
)
def test_options_that_are_refused(options: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        graphopt.Pipeline(f"partition{{{options}}}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("devices=2,speeds=[1.0]", "1 speeds for 2 devices"),
        ("devices=2,memory=[1GB,1GB,1GB]", "3 sizes of memory for 2 devices"),
        ("devices=2,memory=lots", "the memory 'lots', wanted a size such as 8GB"),
        ("devices=2,sample=nothing", "nothing"),
    ],
)
def test_resources_that_are_refused(costs: str, options: str, message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        spread(costs, options)


@pytest.mark.parametrize("text", ["roofline:nowhere.json", "nowhere.json"])
def test_costs_that_are_not_there(text: str) -> None:
    module, args = tall(2)
    with pytest.raises(PlanError, match="nowhere"):
        graphopt.optimize(module, args, passes=f'partition{{devices=2,costs="{text}"}}')


def test_costs_of_another_program_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text('{"seconds": {}}', encoding="utf-8")
    module, args = tall(2)
    with pytest.raises(PlanError):
        graphopt.optimize(module, args, passes=f'partition{{devices=2,costs="{path}"}}')


@pytest.mark.parametrize("mode", ["pipeline,micro_batches=2", "cfg"])
def test_a_static_batch_cannot_be_parted(costs: str, mode: str) -> None:
    class Static(nn.Linear):
        def forward(self, sample: Tensor) -> Tensor:
            return super().forward(sample.reshape(2, 4)).tanh()

    with pytest.raises(PreconditionError, match="partition: the batch of the program is static"):
        spread(costs, f"devices=2,mode={mode}", (Static(4, 4).eval(), (torch.randn(2, 4),)))


def test_rows_that_are_mixed_are_found_out(costs: str) -> None:
    class Mixed(nn.Linear):
        def forward(self, sample: Tensor) -> Tensor:
            hidden = super().forward(sample)
            return (hidden - hidden.mean(0)).tanh()

    with pytest.raises(VerificationError, match=r"a step of phase sync over the devices is .* away from the program"):
        spread(costs, "devices=2,mode=cfg", (Mixed(4, 4).eval(), (torch.randn(4, 4),)))


def test_random_numbers_are_refused(costs: str) -> None:
    class Noisy(nn.Linear):
        def forward(self, sample: Tensor) -> Tensor:
            return super().forward(sample) + torch.randn_like(sample)

    with pytest.raises(PreconditionError, match=r"draws random numbers .* pass them to the model as an input"):
        spread(costs, "devices=2", (Noisy(4, 4).eval(), (torch.randn(4, 4),)))


def test_the_text_round_trips() -> None:
    text = (
        "partition{devices=3,mode=async,memory=[8GB,1GB,512MiB],costs=roofline:d.json,speeds=[1.0,2.0,0.5],"
        "sample=x,warm_up=2,stride=2,extrapolate=0.5}"
    )
    pipeline = graphopt.Pipeline(text)
    (only,) = pipeline.passes
    assert graphopt.Pipeline(str(only)).passes == (only,)
    assert only == PartitionProgram(
        devices=3,
        mode="async",
        memory=("8GB", "1GB", "512MiB"),
        costs="roofline:d.json",
        speeds=(1.0, 2.0, 0.5),
        sample="x",
        warm_up=2,
        stride=2,
        extrapolate=0.5,
    )


@pytest.mark.parametrize(
    "options", ["devices=2", "devices=2,micro_batches=2", "devices=2,mode=cfg", "devices=3,mode=async,warm_up=2"]
)
def test_the_plan_is_plain_data(costs: str, options: str) -> None:
    plan = spread(costs, options).plan
    assert plan is not None
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(plan.to_json()))
    assert graphopt.Plan.from_json(plan.to_json()) == plan


def test_the_program_stays_as_it_is(costs: str) -> None:
    module, args = tall()
    result = spread(costs, "devices=2", (module, args))
    assert torch.equal(result.program(*args), graphopt.capture(module, args)(*args))


def test_the_same_plan_every_time(costs: str) -> None:
    first, second = (partition_of(spread(costs, "devices=3", (stack(), tokens()))) for _ in range(2))
    assert first == second
    assert first.hash == second.hash


def test_stages_are_programs_of_their_own(costs: str) -> None:
    module, args = tall()
    result = spread(costs, "devices=2", (module, args))
    stages = result.stages
    assert list(stages) == ["sync/0.0", "sync/1.0"]
    middle = stages["sync/0.0"](*args)
    assert torch.equal(stages["sync/1.0"](*middle)[0], result.program(*args))


def test_one_device_holds_it_all(costs: str) -> None:
    partition = partition_of(spread(costs, "devices=1"))
    assert [len(phase.segments) for phase in partition.phases.values()] == [1]


def test_a_partition_of_another_program_is_refused(costs: str) -> None:
    first, second = spread(costs, "devices=2"), spread(costs, "devices=2", tall(6))
    swapped = graphopt.Result(
        program=second.program, programs=second.programs, plan=first.plan, schedule=None, report=second.report
    )
    with pytest.raises(PlanError):
        _ = swapped.stages


def test_the_report_names_the_figures(costs: str) -> None:
    report = spread(costs, "devices=2").report.passes[0]
    assert report.before["predicted_step_seconds"] < report.after["predicted_step_seconds"]
    assert report.after["sent_bytes"] == 2 * 4 * 16 * 64
    assert report.after["largest_device_parameter_bytes"] == report.before["largest_device_parameter_bytes"] / 2
    assert any(note.startswith("edge ") for note in report.notes)


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * 10**9), ("1.5KiB", 1536), ("7", 7), ("2 MB", 2 * 10**6), ("3kB", 3000)]
)
def test_sizes_of_memory(text: str, size: int) -> None:
    assert read_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8XB", "-1GB", "0", "GB", "1e3", "١GB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(SpecError, match="wanted a size such as"):
        read_bytes(text)
