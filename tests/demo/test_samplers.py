from pathlib import Path

import pytest
import torch
from torch import Tensor

import graphopt
from graphopt.cost import cost
from graphopt.demo.caching_quality import Inputs, Uncached, trajectory
from graphopt.demo.diffusion import SamplingConfig
from graphopt.demo.model import DiT, DiTConfig
from graphopt.demo.samplers import deploy_samplers, generation_macs, play, torch_denoiser

CACHE = "taylorseer{interval=3,order=0,layers=all}"
SAMPLING = SamplingConfig(steps=6, guidance=1.5)


@pytest.fixture(scope="module")
def model() -> DiT:
    torch.manual_seed(0)
    model = DiT(DiTConfig(width=16, depth=2, heads=2)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def calls(model: DiT) -> tuple[Inputs, ...]:
    return trajectory(model, SAMPLING, count=3, seed=0)


@pytest.fixture(scope="module")
def program(model: DiT) -> graphopt.Program:
    return graphopt.capture(model, (torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([3, 4])))


def run(program: graphopt.Program, passes: str) -> graphopt.Result:
    return graphopt.Pipeline(passes).run(program, graphopt.PassContext(verify=False))


def test_work_of_a_generation(program: graphopt.Program, calls: tuple[Inputs, ...]) -> None:
    row = {"original": cost(program).macs / 2}
    assert generation_macs(program, calls) == 6 * row["original"]
    result = run(program, CACHE)
    row |= {name: cost(one).macs / 2 for name, one in result.programs.items()}
    # Steps 0, 1, 2 and 4 of 6 are full.
    assert generation_macs(result, calls) == 4 * row["full"] + 2 * row["cached"]


def test_a_probe_counts_beside_its_tail(program: graphopt.Program, calls: tuple[Inputs, ...]) -> None:
    always = run(program, "first-block{threshold=1000}")
    row = {name: cost(one).macs / 2 for name, one in always.programs.items()}
    assert generation_macs(always, calls) == row["full"] + 5 * (row["probe"] + row["tail-cached"])


def test_a_program_computes_every_step(program: graphopt.Program, model: DiT, calls: tuple[Inputs, ...]) -> None:
    wanted = play(Uncached(model), calls)
    found = play(torch_denoiser(program), calls)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_a_session_starts_over_with_every_play(program: graphopt.Program, calls: tuple[Inputs, ...]) -> None:
    denoiser = torch_denoiser(run(program, CACHE))
    first, again, full = play(denoiser, calls), play(denoiser, calls), play(torch_denoiser(program), calls)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    same = [torch.equal(*pair) for pair in zip(first, full, strict=True)]
    assert same == [True, True, True, False, True, False]


@pytest.mark.slow
def test_deployed(program: graphopt.Program, calls: tuple[Inputs, ...], tmp_path: Path) -> None:
    subjects = {"plain": program, "cached": run(program, CACHE)}
    deployed = deploy_samplers(subjects, calls, tmp_path, rounds=2)
    assert {name: one.path.name for name, one in deployed.items()} == {"plain": "plain.onnx", "cached": "cached"}
    for name, one in deployed.items():
        assert one.torch_seconds > 0 < one.onnx_seconds
        wanted = play(torch_denoiser(subjects[name]), calls)
        found: list[Tensor] = play(one.onnx, calls)
        assert max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True)) == one.error
        assert one.error < 1e-4
