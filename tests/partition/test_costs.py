"""Costs: measured and by roofline, their files, and refusals of what belongs to another program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import PlanError
from graphopt.partition.costs import load_costs
from graphopt.partition.measuring import measured
from graphopt.partition.roofline import DeviceSpec, load_device_spec, roofline


class Chain(nn.Module):
    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.large = nn.Linear(width, 4 * width)
        self.small = nn.Linear(4 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.small(self.large(x).relu()).reshape(-1)


class Counting(nn.Module):
    """Writes to its state and draws random numbers when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1.0)
        return x * self.count + torch.rand_like(x)


SPEC = DeviceSpec("card", flops_per_second=1e9, bytes_per_second=1e8, overhead_seconds=1e-6)


def program(width: int = 256) -> graphopt.Program:
    return graphopt.capture(Chain(width), (torch.randn(64, width),))


def test_measured_times_order_operators_by_work() -> None:
    model = measured(program(), repeats=5)
    assert set(model.seconds["default"]) == {"linear", "relu", "linear_1", "reshape"}
    assert model.of("linear") > 3 * model.of("linear_1")
    assert model.of("linear") > 10 * model.of("reshape") > 0
    assert model.total() == pytest.approx(sum(model.seconds["default"].values()))


def test_measuring_leaves_state_inputs_and_random_numbers_as_they_were() -> None:
    captured = graphopt.capture(Counting(), (torch.ones(2, 3),))
    before, state = captured.parameters["count"].clone(), torch.random.get_rng_state()
    measured(captured, repeats=2)
    assert torch.equal(captured.parameters["count"], before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(captured.args[0], torch.ones(2, 3))


def test_roofline_is_the_longer_of_work_and_traffic() -> None:
    model = roofline(program(), SPEC)
    moved = 4 * (64 * 256 + 256 * 1024 + 1024 + 64 * 1024)
    work = 2 * 64 * 256 * 1024 / 1e9
    assert model.of("linear", "card") == pytest.approx(max(work, moved / 1e8) + 1e-6)
    assert model.of("relu", "card") == pytest.approx(2 * 4 * 64 * 1024 / 1e8 + 1e-6)
    assert model.of("reshape", "card") == 0.0


def test_roofline_needs_no_weights_and_measuring_says_so() -> None:
    with torch.device("meta"):
        captured = graphopt.capture(Chain(), (torch.randn(64, 256),))
    assert roofline(captured, SPEC).seconds == roofline(program(), SPEC).seconds
    with pytest.raises(PlanError, match="use a roofline"):
        measured(captured)
    with pytest.raises(PlanError, match="found 0 runs"):
        measured(program(), repeats=0)


def test_costs_go_through_their_file(tmp_path: Path) -> None:
    subject = program()
    model = measured(subject, repeats=1).joined(roofline(subject, SPEC))
    path = tmp_path / "costs.json"
    model.save(path)
    assert load_costs(path, subject) == model
    assert sorted(model.seconds) == ["card", "default"]
    assert [*tmp_path.iterdir()] == [path]


def test_costs_of_another_program_or_torch_are_refused(tmp_path: Path) -> None:
    model, path = roofline(program(), SPEC), tmp_path / "costs.json"
    model.save(path)
    with pytest.raises(PlanError, match="measure this program"):
        load_costs(path, program(128))
    with pytest.raises(PlanError, match="costs of two programs"):
        model.joined(roofline(program(128), SPEC))
    with pytest.raises(PlanError, match=r"two sets of costs for \['card'\]"):
        model.joined(model)
    path.write_text(path.read_text().replace(torch.__version__, "0.0.1"))
    with pytest.raises(PlanError, match=r"torch 0\.0\.1"):
        load_costs(path, program())
    path.write_text(json.dumps({"seconds": 3}))
    with pytest.raises(PlanError, match="cannot read costs"):
        load_costs(path, program())


def test_device_files(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    path.write_text(
        json.dumps({"name": "card", "flops_per_second": 1e9, "bytes_per_second": 1e8, "memory_bytes": None})
    )
    assert load_device_spec(path) == DeviceSpec("card", 1e9, 1e8)
    for text, message in [
        ('{"name": "card", "flops_per_second": 1e9}', "cannot read a device"),
        ('{"name": "card", "flops_per_second": 1e9, "bytes_per_second": 1, "cores": 3}', "found 'cores'"),
        ('{"name": "card", "flops_per_second": 0, "bytes_per_second": 1}', "wanted flops"),
    ]:
        path.write_text(text)
        with pytest.raises(PlanError, match=message):
            load_device_spec(path)
