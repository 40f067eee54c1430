import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_full_sizes_are_those_of_the_models() -> None:
    from end_to_end_comparison.dit import DiT, DiTSize
    from end_to_end_comparison.unet import UNet, UNetSize

    with torch.device("meta"):
        unet, dit = UNet(UNetSize()), DiT(DiTSize())
    assert parameters(unet) == 859_520_964
    # 675,129,632 with the places, which are parameters that are not trained in the authors' code.
    assert parameters(dit) + dit.places.numel() == 675_129_632


def test_the_unet_computes_what_that_of_diffusers_does() -> None:
    import diffusers
    from end_to_end_comparison.unet import UNet, UNetSize

    model = UNet(UNetSize((16, 32, 32, 32), context=32, heads=4, groups=8)).eval()
    peer = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32, 32, 32),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()
    peer.load_state_dict(model.state_dict())
    latents, timestep, text = torch.randn(2, 4, 16, 16), torch.tensor(481), torch.randn(2, 6, 32)
    with torch.no_grad():
        wanted = peer(latents, timestep, text).sample
        torch.testing.assert_close(model(latents, timestep, text), wanted, rtol=1e-4, atol=1e-5)


def test_a_picture_of_the_dit_lies_as_its_patches_do() -> None:
    from end_to_end_comparison.dit import DiT, DiTSize

    model = DiT(DiTSize(width=16, depth=1, heads=2, side=6))
    patches = torch.arange(9.0).reshape(1, 9, 1).expand(1, 9, 32)
    picture = model._picture(patches)
    assert picture.shape == (1, 8, 6, 6)
    assert picture[0, 3, ::2, ::2].flatten().tolist() == list(range(9))
    assert picture[0, 3, 1::2, 1::2].flatten().tolist() == list(range(9))


def test_a_generation_is_that_of_ddim() -> None:
    import diffusers
    from end_to_end_comparison.generation import SCALE, generate, plan_of
    from end_to_end_comparison.subjects import randomised, subject_of

    subject = subject_of("unet", tiny=True)
    model = randomised(subject, "cpu", torch.float32)
    plan = plan_of(subject, "cpu", torch.float32, 4)
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(4)
    assert tuple(scheduler.timesteps.tolist()) == plan.numbers
    latents = plan.latents
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            uncond, cond = model(torch.cat([latents, latents]), timestep, *plan.conditions).chunk(2)
            latents = scheduler.step(uncond + SCALE * (cond - uncond), timestep, latents).prev_sample
    torch.testing.assert_close(generate(model, plan), latents, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "labels"), [("unet", 1), ("dit", 3)])
def test_every_cache_can_be_made_and_fused(name: str, labels: int) -> None:
    from end_to_end_comparison.generation import generate, plan_of
    from end_to_end_comparison.players import EAGER, players
    from end_to_end_comparison.subjects import randomised, subject_of

    subject = subject_of(name, tiny=True)
    model, plan = randomised(subject, "cpu", torch.float32), plan_of(subject, "cpu", torch.float32, 6)
    taking_part = list(players(model, plan, subject.caches(6), "default"))
    fused = [player for player in taking_part if player.notes]
    assert len(taking_part) == 2 + 3 * labels
    assert len(fused) == labels
    eager = [player for player in taking_part if player.name == player.like]
    full = generate(model, plan)
    for player in eager[1:]:
        player.start()
        cached = generate(player.call, plan)
        assert 0 < len(set(player.decisions())) <= 3
        error = float((cached - full).norm() / full.norm())
        assert 1e-6 < error < 1, f"{player.name}: {error}"
    assert eager[0].name == EAGER


def test_full_size_without_a_gpu_is_refused(benchmarks: Path) -> None:
    completed = _run(benchmarks)
    assert completed.returncode == 2
    assert "found no CUDA device, wanted one" in completed.stdout


@pytest.mark.slow
def test_tiny_denoisers_run_on_a_cpu(benchmarks: Path) -> None:
    completed = _run(benchmarks, "--tiny", "--only", "dit", "--caches", "l2c", "--rounds", "1")
    assert completed.returncode == 0, completed.stderr[-2000:]
    rows = [line.split(" | ") for line in completed.stdout.splitlines() if line.startswith("| tiny dit")]
    assert [row[2].rpartition(": ")[2] for row in rows] == [
        "eager",
        "torch.compile",
        "eager",
        "compiled",
        "fused, compiled",
    ]
    assert all(float(row[8]) < 1e-4 for row in rows)
    assert "2 cached_apply" in completed.stdout


def _run(benchmarks: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(benchmarks), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(benchmarks / "gpu_end_to_end.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
