"""From programs to workloads: every operator has its place, stretches stay whole, and the numbers add up."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphopt
from graphopt.errors import PlanError
from graphopt.partition.choosing import best_pipeline
from graphopt.partition.coarsening import Coarsening, coarsen
from graphopt.partition.costs import CostModel
from graphopt.partition.devices import equal_devices
from graphopt.partition.links import Link, LinkTable
from graphopt.partition.roofline import DeviceSpec, roofline
from graphopt.partition.workload import INPUT
from graphopt.values import hint

SPEC = DeviceSpec("default", flops_per_second=1e10, bytes_per_second=1e10)


class Denoiser(nn.Module):
    """Blocks with attention; a timestep's embedding enters each of them."""

    def __init__(self, depth: int = 4, width: int = 32) -> None:
        super().__init__()
        self.time = nn.Linear(1, width)
        self.modulation = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.qkv = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in range(3)) for _ in range(depth))
        self.mlp = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        embedding = F.silu(self.time(t[:, None]))
        first = x
        for modulation, (query, key, value), mlp in zip(self.modulation, self.qkv, self.mlp, strict=True):
            scale, shift = modulation(embedding)[:, None].chunk(2, dim=-1)
            h = F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
            x = x + F.scaled_dot_product_attention(query(h)[:, None], key(h)[:, None], value(h)[:, None])[:, 0]
            x = x + mlp(F.layer_norm(x, x.shape[-1:])) * (1 + scale)
        return torch.cat([x, first], dim=-1)


class Written(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(8))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[1](self.layers[0](x))
        self.seen.add_(x.mean(0))
        x = self.layers[3](self.layers[2](x))
        z = torch.zeros_like(x)
        x = self.layers[4](x)
        z[:, :4] = x[:, :4]
        left, right = torch.split(self.layers[5](z) + self.seen, 4, dim=1)
        return torch.cat([right, left], dim=1)


class TextInside(nn.Module):
    """A large text encoder, read by every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        words = self.text(text)
        for layer in self.layers:
            x = layer(x) + words
        return x


def denoiser() -> tuple[graphopt.Program, CostModel]:
    program = graphopt.capture(Denoiser(), (torch.randn(2, 16, 32), torch.rand(2)))
    return program, roofline(program, SPEC)


def where(found: Coarsening) -> dict[str, int]:
    return {name: item for item, names in enumerate(found.nodes) for name in names}


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
def test_every_operator_is_somewhere_once_and_operands_come_first(devices: int) -> None:
    program, costs = denoiser()
    found = coarsen(program, costs, devices)
    place, shared = where(found), dict(found.replicated)
    assert sum(map(len, found.nodes)) == len(place)
    assert not place.keys() & shared.keys()
    for node in program.graph_module.graph.nodes:
        if node.name in place:
            assert all(
                place[operand.name] <= place[node.name] for operand in node.all_input_nodes if operand.name in place
            )
    timed = {name for name, seconds in costs.seconds["default"].items() if seconds}
    constants = timed - place.keys() - shared.keys()
    assert constants == set()


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_numbers_of_items_are_those_of_their_nodes(devices: int) -> None:
    program, costs = denoiser()
    found = coarsen(program, costs, devices)
    work, place = found.workload, where(found)
    replicated = sum(replica.seconds["default"] for replica in work.replicas)
    assert sum(work.seconds["default"]) + replicated == pytest.approx(costs.total())
    assert sum(storage.size_bytes for storage in work.storages) == sum(
        4 * t.numel() for t in program.parameters.values()
    )
    for value in work.values:
        node = next(node for node in program.graph_module.graph.nodes if node.name == value.name)
        readers = {place[user.name] for user in node.users if user.name in place}
        if value.producer == INPUT:
            assert readers <= set(value.consumers)
        else:
            assert set(value.consumers) == readers - {place[value.name]}
            shape = [hint(size) for size in node.meta["val"].shape]
            assert value.size_bytes == math.prod(shape) * node.meta["val"].element_size()


def test_a_denoiser_is_a_path_and_its_timestep_is_replicated() -> None:
    program, costs = denoiser()
    found = coarsen(program, costs, 2)
    plan = best_pipeline(found.workload, equal_devices(2), LinkTable(Link(0.0, 1e12)))
    assert plan.certificate == "unique-order"
    assert {"linear", "silu"} <= dict(found.replicated).keys()  # the timestep's embedding
    first, second = found.names_by_device(plan)
    assert {"linear", "silu"} <= set(first) & set(second)
    names = {node.name for node in program.graph_module.graph.nodes if node.op == "call_function"}
    assert set(first) | set(second) <= names
    inputs = {value.name: value.consumers for value in found.workload.values if value.producer == INPUT}
    assert inputs["t"][0] == 0
    assert inputs["t"][-1] >= len(found.nodes) - 2


def test_memory_that_is_written_to_stays_on_one_device() -> None:
    program = graphopt.capture(Written(), (torch.randn(4, 8),))
    found = coarsen(program, roofline(program, SPEC), 6)
    place = where(found)
    graph = program.graph_module.graph
    (writer,) = [user for node in graph.find_nodes(op="get_attr", target="seen") for user in node.users]
    assert len(writer.users) == 1  # it is read much later
    assert len({place[node.name] for node in [writer, *writer.users]}) == 1
    assert len(found.nodes) > 2
    writers = [node for node in graph.nodes if "copy_" in str(node.target)]
    zeros = [node for node in graph.nodes if "zeros_like" in str(node.target)]
    holders = {place[node.name] for node in [*writers, *zeros] if node.name in place}
    assert len(writers) == 1
    assert len(holders) == 1
    split = next(node for node in graph.nodes if "split" in str(node.target))
    assert len({place[node.name] for node in [split, *split.users]}) == 1


def test_expensive_side_work_is_an_item_of_its_own() -> None:
    program = graphopt.capture(TextInside(), (torch.randn(2, 64), torch.randn(2, 64)))
    found = coarsen(program, roofline(program, SPEC), 2)
    assert found.replicated == ()
    assert "linear" in found.nodes[0]
    words = next(value for value in found.workload.values if value.name == "linear_5")
    assert words.producer != INPUT
    assert len(words.consumers) > 3
    plan = best_pipeline(found.workload, equal_devices(2), LinkTable(Link(0.0, 1e12)))
    assert plan.seconds < 0.6 * sum(found.workload.seconds["default"])


class Pairs(nn.Module):
    """An expensive side branch whose parts go to different layers."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(6))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        left, right = torch.split(self.side(y), 32, dim=1)
        for number, layer in enumerate(self.layers):
            x = layer(x) + (left if number < 3 else right * 2)
        return x


def test_parts_of_expensive_side_work_reach_their_readers() -> None:
    program = graphopt.capture(Pairs(), (torch.randn(2, 32), torch.randn(2, 64)))
    found = coarsen(program, roofline(program, SPEC), 3)
    place, shared = where(found), dict(found.replicated)
    values = {value.name: value for value in found.workload.values}
    for node in program.graph_module.graph.nodes:
        for user in node.users if node.name in place else ():
            needed = {place[user.name]} if user.name in place else set(shared.get(user.name, ()))
            others = needed - {place[node.name]}
            assert not others or others <= set(values[node.name].consumers)
            assert not others or isinstance(node.meta["val"], torch.Tensor)


def test_items_are_bounded_and_refusals_say_what_to_do() -> None:
    program, costs = denoiser()
    assert len(coarsen(program, costs, 4, max_items=7).nodes) <= 7
    with pytest.raises(PlanError, match="an item each"):
        coarsen(program, costs, 4, max_items=3)
    other = graphopt.capture(Written(), (torch.randn(4, 8),))
    with pytest.raises(PlanError, match="costs of a program"):
        coarsen(other, costs, 2)


def test_sums_of_a_single_item_hold_its_memory() -> None:
    program, costs = denoiser()
    found: Any = coarsen(program, costs, 1, max_items=1)
    plan = best_pipeline(found.workload, equal_devices(1))
    whole = sum(4 * tensor.numel() for tensor in program.parameters.values())
    assert plan.loads[0].parameter_bytes == whole
    assert whole < plan.loads[0].peak_bytes < whole + 40 * 4 * 2 * 16 * 32
    assert plan.size_bytes == 0
