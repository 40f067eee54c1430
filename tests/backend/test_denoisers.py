"""Denoisers of diffusers through the backend: the caches and layers that the other ways of calling graphopt find."""

import diffusers
import pytest
import torch

import graphopt
from graphopt.runtime import CacheSession

STEPS = 6


@pytest.fixture
def unet() -> torch.nn.Module:
    torch._dynamo.reset()
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


@torch.no_grad()
def test_a_cache_is_cut_where_optimize_cuts_it(unet: torch.nn.Module) -> None:
    samples = [torch.randn(2, 3, 16, 16) for _ in range(STEPS)]
    timesteps = list(torch.arange(900, 0, -150))
    result = graphopt.optimize(unet, (samples[0], timesteps[0]), passes="deepcache{interval=3}")
    session = CacheSession(result)
    wanted = [session(sample, timestep).sample for sample, timestep in zip(samples, timesteps, strict=True)]
    options = {"cache": "deepcache{interval=3}", "inner": "eager"}
    fast = torch.compile(unet, backend="graphopt", options=options, fullgraph=True)
    with graphopt.cache_session(steps=STEPS) as held:
        found = [fast(sample, timestep).sample for sample, timestep in zip(samples, timesteps, strict=True)]
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert held.cache_bytes == session.cache_bytes


@torch.no_grad()
def test_layers_are_skipped_by_the_paths_of_their_modules(unet: torch.nn.Module) -> None:
    call = (torch.randn(2, 3, 16, 16), torch.tensor(300))
    name = "mid_block.resnets.0"
    wanted = graphopt.optimize(unet, call, passes=f"prune-layers{{units=block,layers=[{name}]}}").program(*call).sample
    fast = torch.compile(unet, backend="graphopt", options={"skip": [name], "inner": "eager"}, fullgraph=True)
    torch.testing.assert_close(fast(*call).sample, wanted)
