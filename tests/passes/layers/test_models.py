"""A bypassed program equals the user's model without the same layers, and the laws hold, on real architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from passes.layers.tiny import MODELS
from torch import Tensor, nn

import graphopt


class Same(nn.Module):
    """Gives back its first input."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x


class SameInTuple(nn.Module):
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        return (x,)


class Shortcut(nn.Module):
    """Only the shortcut of a residual block of diffusers."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        return self.block.conv_shortcut(x) / self.block.output_scale_factor


def delete_(model: nn.Module, path: str) -> None:
    """Delete an item of a list of modules."""
    parent, _, place = path.rpartition(".")
    del model.get_submodule(parent)[int(place)]


def put(path: str, make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    """Put another module in the place of one."""

    def replace(model: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, make(model.get_submodule(path)))

    return replace


def both(*changes: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for one in changes:
            one(model)

    return change


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def outputs(model: Any, args: Any, kwargs: Any) -> Tensor:
    with torch.no_grad():
        output = model(*args, **kwargs)
    output = output[0] if isinstance(output, tuple) else output
    return getattr(output, "logits", output)


@pytest.mark.parametrize(
    ("name", "options", "paths"),
    [
        ("stack", "layers=[1,3]", ["branches.3", "branches.1"]),
        ("stack", "units=branch,layers=[branches.0]", ["branches.0"]),
        ("vit", "layers=[1,blocks.2]", ["blocks.2", "blocks.1"]),
        ("llama", "layers=[model.layers.1]", ["model.layers.1"]),
        ("llama", "layers=[0,1,2]", ["model.layers.2", "model.layers.1", "model.layers.0"]),
        ("pixart", "layers=[transformer_blocks.0,2]", ["transformer_blocks.2", "transformer_blocks.0"]),
        slow("flux", "layers=[block.0,3]", ["transformer_blocks.0", "single_transformer_blocks.1"]),
        ("flux", "layers=[single_transformer_blocks.0]", ["single_transformer_blocks.0"]),
        ("resnet", "layers=[layer1.0]", ["layer1.0"]),
    ],
)
def test_the_result_is_the_model_with_these_layers_deleted(name: str, options: str, paths: list[str]) -> None:
    model, args, kwargs = MODELS[name]()
    result = graphopt.optimize(model, args, kwargs, passes=f"prune-layers{{{options}}}")
    for path in paths:
        delete_(model, path)
    assert torch.equal(outputs(model, args, kwargs), outputs(result.program, args, kwargs))
    assert result.report.passes[0].after["parameters"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "change"),
    [
        ("vit", "units=branch,layers=[blocks.3.mlp]", put("blocks.3.mlp", lambda _: Zero())),
        ("resnet", "layers=[block.2]", put("layer2.0", lambda b: nn.Sequential(b.downsample, nn.ReLU()))),
        (
            "resnet",
            "units=branch,layers=[shortcut.0]",
            put("layer2.0", lambda b: nn.Sequential(b.downsample, nn.ReLU())),
        ),
        slow("unet", "units=branch,layers=[mid_block.resnets.1]", put("mid_block.resnets.1", lambda _: Same())),
        slow(
            "unet",
            "units=branch,layers=[down_blocks.0.resnets.1,down_blocks.0.attentions.1,up_blocks.0.resnets.1]",
            both(
                put("down_blocks.0.resnets.1", lambda _: Same()),
                put("down_blocks.0.attentions.1", lambda _: SameInTuple()),
                put("up_blocks.0.resnets.1", Shortcut),
            ),
        ),
        ("unet", "layers=[mid_block]", put("mid_block", lambda _: Same())),
    ],
)
def test_the_result_is_the_model_with_these_layers_replaced(
    name: str, options: str, change: Callable[[nn.Module], None]
) -> None:
    model, args, kwargs = MODELS[name]()
    result = graphopt.optimize(model, args, kwargs, passes=f"prune-layers{{{options}}}")
    change(model)
    assert torch.equal(outputs(model, args, kwargs), outputs(result.program, args, kwargs))
    figures = result.report.passes[0]
    assert figures.after["parameters"] < figures.before["parameters"]


@pytest.mark.parametrize("name", ["stack", "vit", "resnet", "llama", slow("pixart"), slow("flux"), slow("unet")])
@pytest.mark.parametrize("units", ["block", "branch"])
def test_every_unit_alone_obeys_the_laws(name: str, units: str) -> None:
    model, args, kwargs = MODELS[name]()
    program = graphopt.capture(model, args, kwargs)
    context = graphopt.PassContext(verify=False)
    result = graphopt.Pipeline(f"prune-layers{{units={units},ratio=0.5,importance=random}}").run(program, context)
    report = graphopt.verify(program, result, per_axis=True)
    errors = {check.law: check.error for check in report.checks}
    assert errors == dict.fromkeys(("weights", "mask equals bypass", "shapes", "replay"), 0.0)
    assert len(report.checks) == 4 + len(result.plan.bypassed)


def test_what_changes_the_shape_is_not_offered_and_listed() -> None:
    model, args, kwargs = MODELS["unet"]()
    result = graphopt.optimize(model, args, kwargs, passes="prune-layers{count=1}")
    lines = result.report.passes[0].frozen
    assert [line.partition(" ")[0] for line in lines] == ["block.2"]
    assert "[2, 16, 8, 8] go in" in lines[0]
    assert "[2, 16, 4, 4] come out" in lines[0]
    with pytest.raises(graphopt.errors.SpecError, match=r"block\.2 cannot be left out: add_11 \[2, 16, 8, 8\]"):
        graphopt.optimize(model, args, kwargs, passes="prune-layers{layers=[2]}")
