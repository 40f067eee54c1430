"""Small models with the structure of real ones, captured once each."""

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import diffusers
import torch
from torch import fx, nn
from zoo import diffusers_transformers, diffusers_unets

from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.tracing import capture

Captured = tuple[nn.Module, dict[str, Any], Program]

_ROWS = {row[0]: row for row in (*diffusers_transformers.ROWS, *diffusers_unets.ROWS)}
_DEPTHS: dict[str, dict[str, Any]] = {
    "pixart": {"num_layers": 12},
    "dit": {"num_layers": 4},
    "flux": {"num_layers": 3, "num_single_layers": 4},
    "sd3": {"num_layers": 4},
    "hunyuan_dit": {"num_layers": 6},
    "unet_2d_condition": {
        "block_out_channels": (32, 64, 64, 64),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    },
}


@cache
def captured(name: str) -> Captured:
    """Return a model of diffusers in eval mode, its named inputs, and its program."""
    _, class_name, options, makers = _ROWS[name]
    torch.manual_seed(0)
    model: nn.Module = getattr(diffusers, class_name)(**copy.deepcopy(options) | _DEPTHS.get(name, {}))
    inputs = {key: maker() for key, maker in makers.items()}
    return model.eval(), inputs, capture(model.eval(), (), inputs)


class Attention(nn.Module):
    """Self-attention over tokens, two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """A block of a vision transformer, with a long skip where asked."""

    def __init__(self, width: int, skip: bool = False) -> None:
        super().__init__()
        self.skip = nn.Linear(2 * width, width) if skip else None
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        if self.skip is not None and skip is not None:
            x = self.skip(torch.cat([x, skip], dim=-1))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class UViT(nn.Module):
    """U-ViT (Bao et al., arXiv 2209.12152): tokens of image and time, long skips between the halves."""

    def __init__(self, width: int = 32, half: int = 3) -> None:
        super().__init__()
        self.embed, self.time = nn.Linear(8, width), nn.Linear(1, width)
        self.first = nn.ModuleList(TransformerBlock(width) for _ in range(half))
        self.middle = TransformerBlock(width)
        self.last = nn.ModuleList(TransformerBlock(width, skip=True) for _ in range(half))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 8)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.time(time[:, None, None]), self.embed(x)], dim=1)
        skips = []
        for block in self.first:
            x = block(x)
            skips.append(x)
        x = self.middle(x)
        for block in self.last:
            x = block(x, skips.pop())
        return self.head(self.norm(x))[:, 1:]


@cache
def u_vit() -> Captured:
    model = UViT().eval()
    inputs = {"x": torch.randn(2, 6, 8), "time": torch.rand(2)}
    return model, inputs, capture(model, (), inputs)


class _Recorder(fx.Interpreter):
    def __init__(self, program: Program) -> None:
        super().__init__(program.graph_module)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n.name] = super().run_node(n)
        return self.values[n.name]


def values_of(program: Program) -> dict[str, Any]:
    """Run a program on its example inputs and return every value by name."""
    recorder = _Recorder(program)
    with torch.no_grad():
        recorder.run(*ExampleInputs(program.args, dict(program.kwargs)).leaves(), enable_io_processing=False)
    return recorder.values


def outputs_of(captured: Captured, paths: list[str]) -> list[tuple[torch.Tensor, ...]]:
    """Run a model on its inputs and return the output tensors of some of its modules, in the order of the paths."""
    model, inputs, _ = captured
    found: dict[str, tuple[torch.Tensor, ...]] = {}
    handles = [model.get_submodule(path).register_forward_hook(_keep(found, path)) for path in paths]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return [found[path] for path in paths]


def _keep(found: dict[str, tuple[torch.Tensor, ...]], path: str) -> Any:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        found[path] = tuple(_tensors(output))

    return hook


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    for value in output if isinstance(output, tuple | list) else [output]:
        if isinstance(value, torch.Tensor):
            yield value
