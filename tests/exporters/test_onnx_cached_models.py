"""Cached ONNX files of a U-Net and a transformer, in the place of the models inside pipelines."""

from pathlib import Path
from typing import Any

import pytest
import torch
from runtime.tiny_pipelines import pixart, stable_diffusion
from torch import Tensor, nn

import graphopt
from graphopt.exporters import OnnxCachedDenoiser
from graphopt.runtime.pipelines import enable_cache

STEPS = 6


class Listener(nn.Module):
    """Keeps what a pipeline gives its denoiser at the first step, and is as good as the denoiser otherwise."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.call: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.call = self.call or (args, kwargs)
        return self.model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.model, name)


def overheard(pipe: Any, name: str, inputs: dict[str, Any]) -> Any:
    """What the pipeline calls its denoiser with."""
    model = getattr(pipe, name)
    object.__setattr__(pipe, name, Listener(model))
    image(pipe, inputs)
    call = getattr(pipe, name).call
    object.__setattr__(pipe, name, model)
    return call


def image(pipe: Any, inputs: dict[str, Any]) -> Tensor:
    latents: Tensor = pipe(
        **inputs, num_inference_steps=STEPS, output_type="latent", generator=torch.Generator().manual_seed(0)
    ).images
    return latents


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "name", "inputs", "spec"),
    [
        (stable_diffusion, "unet", {"prompt": "a cat"}, "deepcache{interval=3}"),
        (
            pixart,
            "transformer",
            {
                "prompt_embeds": torch.ones(1, 6, 16),
                "negative_prompt": None,
                "negative_prompt_embeds": torch.zeros(1, 6, 16),
                "prompt_attention_mask": torch.ones(1, 6),
                "negative_prompt_attention_mask": torch.ones(1, 6),
                "use_resolution_binning": False,
            },
            "first-block{threshold=0.9}",
        ),
    ],
)
def test_a_pipeline_draws_the_same_with_the_files(
    make: Any, name: str, inputs: dict[str, Any], spec: str, tmp_path: Path
) -> None:
    pipe = make()
    model = getattr(pipe, name)
    plain = image(pipe, inputs)
    args, kwargs = overheard(pipe, name, inputs)
    result = graphopt.Pipeline(spec).run(graphopt.capture(model, args, kwargs))
    graphopt.export_onnx(result, tmp_path / "out")

    enable_cache(pipe, result)
    wanted = image(pipe, inputs)
    decisions = [(one.step, one.program) for one in getattr(pipe, name).decisions]
    assert any("cached" in program for _, program in decisions)

    runner = OnnxCachedDenoiser(tmp_path / "out", config=model.config, scheduler=lambda: pipe.scheduler)
    setattr(pipe, name, runner)
    for _ in range(2):
        found = image(pipe, inputs)
        assert [(one.step, one.program) for one in runner.decisions] == decisions
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-4
    assert float((wanted - plain).abs().max()) > 1e-4
