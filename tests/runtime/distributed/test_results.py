"""Law 7: whatever is planned, devices compute what one process emulates, bit for bit, and send what is simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hand_made
import pytest
import torch
from hand_made import in_threads
from torch import Tensor, nn

import graphopt
from graphopt.partition.simulator import simulate
from graphopt.runtime.distributed.driver import Driver
from graphopt.runtime.distributed.saved import program_of

STEPS = 8
TIMESTEPS = [900.0 - 100 * step for step in range(STEPS)]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gate, self.mlp = nn.Linear(width, width), nn.Sequential(nn.Linear(width, 2 * width), nn.GELU())
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.gate(time)[:, None] * self.proj(mixed)
        return x + self.down(self.mlp(x))


class Denoiser(nn.Module):
    def __init__(self, width: int = 8, depth: int = 4) -> None:
        super().__init__()
        self.embed, self.time, self.head = nn.Linear(4, width), nn.Linear(1, width), nn.Linear(width, 4)
        self.text = nn.Linear(3, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        time = torch.tanh(self.time(timestep[:, None] / 1000) + self.text(text))
        hidden = self.embed(sample)
        for block in self.blocks:
            hidden = block(hidden, time)
        return self.head(hidden)


@pytest.fixture(scope="module")
def program() -> graphopt.Program:
    torch.manual_seed(0)
    inputs = (torch.randn(4, 6, 4), torch.full((4,), 500.0), torch.randn(4, 3))
    return graphopt.capture(Denoiser().eval(), inputs)


@pytest.fixture
def costs(tmp_path: Path) -> str:
    path = tmp_path / "device.json"
    path.write_text('{"name": "cpu", "flops_per_second": 1e9, "bytes_per_second": 1e9}', encoding="utf-8")
    return f'costs="roofline:{path}"'


CACHE = 'insert-cache{cuts=["branch.2","branch.5"],kind=residual,schedule="uniform:3"},'
SPECS = [
    "partition{devices=2",
    "partition{devices=4",
    "partition{devices=3,micro_batches=2",
    "partition{devices=2,mode=cfg",
    "partition{devices=4,mode=cfg",
    "partition{devices=2,mode=async",
    "partition{devices=3,mode=async,warm_up=2,extrapolate=1",
    "partition{devices=2,mode=async,time_shift",
    "partition{devices=3,mode=async,stride=2",
    "partition{devices=4,mode=async,stride=2,extrapolate=0.5",
    "partition{devices=2,mode=patch",
    "partition{devices=3,mode=patch,displaced,warm_up=2",
    "partition{devices=2,mode=patch,patches=3",
    CACHE + "partition{devices=2",
    CACHE + "partition{devices=2,mode=async,warm_up=2",
]


@pytest.mark.parametrize("spec", SPECS)
def test_devices_compute_what_one_process_emulates(
    program: graphopt.Program, costs: str, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = graphopt.Pipeline(f"{spec},{costs}}}").run(program)
    partition = result.partition
    assert partition is not None
    sample, _, text = program.args
    examples = dict(zip(("sample", "timestep", "text"), program.args, strict=True))
    monkeypatch.setattr(hand_made, "EXAMPLES", examples)

    def loop(step: Any) -> list[Tensor]:
        now, outputs = sample, []
        with torch.no_grad():
            for number in range(STEPS):
                outputs.append(step(now, torch.full((4,), TIMESTEPS[number])))
                now = now - 0.2 * outputs[-1]
        return outputs

    drivers: list[Driver] = []

    def drive(driver: Driver) -> list[Tensor]:
        drivers.append(driver)
        driver.begin(steps=STEPS, timesteps=TIMESTEPS)
        return loop(lambda now, time: driver.step({"sample": now, "timestep": time, "text": text})[0])

    emulation = graphopt.Emulation(result)
    emulation.reset(timesteps=TIMESTEPS)
    wanted = loop(lambda now, time: emulation(now, time, text))
    programs = {device: program_of(result, device) for device in range(partition.devices)}
    ended = in_threads(programs, drive, timeout=10)
    assert all(map(torch.equal, wanted, ended[partition.sampler]))
    crews = [drivers[0].crew if device == partition.sampler else crew for device, crew in ended.items()]
    sent = sum(sum(crew.bytes_sent.values()) for crew in crews)
    seconds = {(name, one.id): 1e-3 for name, phase in partition.phases.items() for one in phase.segments}
    forecast = simulate(
        partition, seconds, STEPS, changing=("sample", "timestep", "timestep_next"), phase_of=programs[0].phase_of
    )
    assert forecast.size_bytes == sent
