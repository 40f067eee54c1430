"""Caches in pipelines of diffusers, built small from configurations."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from DeepCache import DeepCacheSDHelper
from diffusers import FirstBlockCacheConfig
from runtime import tiny_pipelines as tiny
from torch import Tensor

from graphopt.errors import GraphoptError
from graphopt.pass_manager import PassContext
from graphopt.runtime.pipelines import disable_cache, enable_cache
from graphopt.runtime.stand_in import CachedDenoiser

DEEPCACHE = 'deepcache{interval=3,allow_dead=["*block_additional*"]}'
UNCHECKED = PassContext(verify=False)
SIZE: dict[str, Any] = {"height": 16, "width": 16, "output_type": "latent"}
PROMPT: dict[str, Any] = {"prompt": "a cat", **SIZE}
CONTROL = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))

pytestmark = pytest.mark.slow


def generate(pipe: Any, *, steps: int = 6, seed: int = 0, **inputs: Any) -> Tensor:
    made = pipe(num_inference_steps=steps, generator=torch.Generator().manual_seed(seed), **inputs)
    return torch.as_tensor(made.images)


def with_helper(pipe: Any, interval: int = 3, **inputs: Any) -> Tensor:
    """What the authors' helper makes of the same pipeline."""
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    return generate(pipe, **inputs)


def programs(denoiser: Any) -> list[str]:
    return [decision.program for decision in denoiser.decisions]


@pytest.fixture(scope="module")
def cached() -> Iterator[Any]:
    """A text-to-image pipeline with a cache, shared: each test begins a generation of its own."""
    pipe = tiny.stable_diffusion()
    yield enable_cache(pipe, DEEPCACHE, context=UNCHECKED)
    assert type(disable_cache(pipe).unet) is not CachedDenoiser


MAKERS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "text to image": (tiny.stable_diffusion, PROMPT),
    "unguided": (tiny.stable_diffusion, PROMPT | {"guidance_scale": 1.0}),
    "image to image": (
        tiny.image_to_image,
        {"prompt": "a cat", "image": CONTROL, "strength": 0.7, "output_type": "latent"},
    ),
    "controlnet": (tiny.controlnet, PROMPT | {"image": CONTROL}),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_u_net_pipeline_equals_the_authors_helper(kind: str) -> None:
    make, inputs = MAKERS[kind]
    pipe = enable_cache(make(), DEEPCACHE, context=UNCHECKED)
    expected = with_helper(make(), **inputs)
    for _ in range(2):
        assert torch.equal(generate(pipe, **inputs), expected)
    schedule = ["full", "cached", "cached", "full", "cached", "cached"]
    assert programs(pipe.unet) == schedule[: 4 if kind == "image to image" else 6]
    assert (generate(make(), **inputs) - expected).norm() / expected.norm() > 0.01


def test_images_of_other_batches_and_sizes_one_after_another(cached: Any) -> None:
    series: list[dict[str, Any]] = [
        PROMPT | {"num_images_per_prompt": 3},
        PROMPT | {"height": 32},
        PROMPT | {"steps": 4},
        PROMPT,
    ]
    for seed, inputs in enumerate(series):
        assert torch.equal(
            generate(cached, seed=seed, **inputs), with_helper(tiny.stable_diffusion(), seed=seed, **inputs)
        )


def test_images_of_pixels(cached: Any) -> None:
    inputs = PROMPT | {"output_type": "np"}
    assert torch.equal(generate(cached, **inputs), with_helper(tiny.stable_diffusion(), **inputs))


def test_the_callback_is_called_and_may_change_latents(cached: Any) -> None:
    seen: list[int] = []

    def halve(_: Any, step: int, __: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(step)
        return {"latents": inputs["latents"] * 0.9}

    ours = generate(cached, **PROMPT, callback_on_step_end=halve)
    assert seen == list(range(6))
    assert torch.equal(ours, with_helper(tiny.stable_diffusion(), **PROMPT, callback_on_step_end=halve))


def test_a_generation_interrupted_midway(cached: Any) -> None:
    def stop(_: Any, step: int, __: Any, ___: Any) -> dict[str, Tensor]:
        if step == 1:
            raise InterruptedError
        return {}

    expected = with_helper(tiny.stable_diffusion(), **PROMPT)
    with pytest.raises(InterruptedError):
        generate(cached, seed=9, **PROMPT, callback_on_step_end=stop)
    assert torch.equal(generate(cached, **PROMPT), expected)


def test_disabling_restores_the_pipeline() -> None:
    pipe = tiny.stable_diffusion()
    unet, config, attributes = pipe.unet, dict(pipe.config), dict(vars(pipe))
    modules = {name: set(vars(module)) for name, module in unet.named_modules()}
    plain = generate(pipe, **PROMPT)
    enable_cache(pipe, DEEPCACHE, context=UNCHECKED)
    assert not torch.equal(generate(pipe, **PROMPT), plain)
    assert dict(pipe.config) == config
    disable_cache(pipe)
    assert pipe.unet is unet
    assert dict(pipe.config) == config
    assert {name: vars(pipe)[name] is value for name, value in attributes.items() if name == "unet"} == {"unet": True}
    assert {name: set(vars(module)) for name, module in unet.named_modules()} == modules
    assert torch.equal(generate(pipe, **PROMPT), plain)


def test_another_pipeline_of_the_same_parts(cached: Any) -> None:
    kind = type(tiny.image_to_image())
    other = kind(**cached.components, requires_safety_checker=False)
    assert other.config["unet"] == ("diffusers", "UNet2DConditionModel")
    _, inputs = MAKERS["image to image"]
    other.set_progress_bar_config(disable=True)
    assert torch.equal(generate(other, **inputs), with_helper(tiny.image_to_image(), **inputs))


def test_a_cached_pipeline_is_saved_as_it_was(cached: Any, tmp_path: Any) -> None:
    cached.save_pretrained(tmp_path)
    again = type(cached).from_pretrained(tmp_path, safety_checker=None)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(generate(again, **PROMPT), generate(tiny.stable_diffusion(), **PROMPT))


def test_control_that_would_be_lost_is_named() -> None:
    pipe = enable_cache(tiny.controlnet(), "deepcache{interval=3}", context=UNCHECKED)
    with pytest.raises(GraphoptError, match="block_additional_residual") as caught:
        generate(pipe, **PROMPT, image=CONTROL)
    assert any("UNet2DConditionModel" in note for note in caught.value.__notes__)


FLUX: dict[str, Any] = SIZE | tiny.flux_prompt() | {"true_cfg_scale": 2.0}


@pytest.mark.parametrize("guided", [True, False])
def test_flux_equals_diffusers_own_cache(guided: bool) -> None:
    inputs = FLUX if guided else FLUX | {"true_cfg_scale": 1.0}
    reference = tiny.flux()
    reference.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.9))
    expected = generate(reference, **inputs)
    pipe = enable_cache(tiny.flux(), "first-block{threshold=0.9}", context=UNCHECKED)
    for _ in range(2):
        assert torch.equal(generate(pipe, **inputs), expected)
    branches = {decision.branch for decision in pipe.transformer.decisions}
    assert branches == ({"cond", "uncond"} if guided else {"cond"})
    assert 0 < sum("cached" in program for program in programs(pipe.transformer)) < len(pipe.transformer.decisions) - 1


EVEN = 'insert-cache{cuts=[stack.0],kind=residual,schedule=uniform:2,allow_dead=["*"]}'


def test_pixart_and_dit_run_by_schedule() -> None:
    prompt = tiny.pixart_prompt() | SIZE | {"negative_prompt": None, "use_resolution_binning": False}
    for make, inputs in ((tiny.pixart, prompt), (tiny.dit, {"class_labels": [1, 2], "output_type": "np"})):
        pipe = enable_cache(make(), EVEN, context=UNCHECKED)
        first = generate(pipe, **inputs)
        assert programs(pipe.transformer) == ["full", "cached"] * 3
        plain = generate(make(), **inputs)
        assert 1e-3 < (first - plain).norm() / plain.norm() < 0.5
        assert torch.equal(generate(pipe, **inputs), first)
        assert torch.equal(generate(disable_cache(pipe), **inputs), plain)
