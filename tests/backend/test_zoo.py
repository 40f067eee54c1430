"""Real architectures with half of the rows of every weight zero: the same outputs, from rewritten graphs."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from zoo.catalogue import entries

ARCHITECTURES = [
    ("transformers", "bert"),
    ("transformers", "gemma"),
    ("transformers", "qwen2_moe"),
    ("transformers", "videomae"),
    ("transformers", "whisper"),
    ("timm", "efficientformer_l1"),
    ("timm", "vit_base_patch16_siglip_224"),
    ("diffusers", "sd3_dual"),
    ("diffusers", "unet_2d"),
]
QUICK = {"gemma", "sd3_dual"}


def cases() -> list[Any]:
    marks = [() if name in QUICK else pytest.mark.slow for _, name in ARCHITECTURES]
    return [pytest.param(*one, marks=mark, id=one[1]) for one, mark in zip(ARCHITECTURES, marks, strict=True)]


def zero_half(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            rows = torch.randperm(len(module.weight), generator=generator)[: len(module.weight) // 2]
            module.weight[rows] = 0
            if module.bias is not None:
                module.bias[rows] = 0


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize(("library", "name"), cases())
@torch.no_grad()
def test_outputs_stay(library: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    model, args, kwargs = next(entry for entry in entries(library) if entry.name == name).build()
    zero_half(model)
    wanted = tensors(model(*args, **kwargs))
    compiled = torch.compile(model, backend="graphopt", options={"inner": "eager"})
    with caplog.at_level(logging.INFO, "graphopt.backend"):
        found = tensors(compiled(*args, **kwargs))
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()
    assert "was rewritten:\nremove-dead" in caplog.text
    assert "WARNING" not in {record.levelname for record in caplog.records if record.name == "graphopt.backend"}
