"""The models: the zoo's, transformers of growing depth, a U-Net of full size, a language model without weights."""

from importlib import import_module
from typing import Any

import torch
from torch import nn
from zoo.catalogue import LIBRARIES, entries

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A model in evaluation form with its positional and named arguments."""

DEPTHS = (2, 4, 8, 16, 32, 64)


def zoo_names(every: int = 1) -> list[str]:
    """Every n-th model of the zoo's libraries; the hand-written ones are left out."""
    names = [
        f"{library}/{entry.name}" for library in LIBRARIES if library != "peer_failures" for entry in entries(library)
    ]
    return names[::every]


def built(name: str) -> Built:
    """Make a model by its name."""
    library, _, rest = name.partition("/")
    if library == "depth":
        return _transformer(int(rest))
    if library == "unet":
        return _unet()
    return next(entry for entry in entries(library) if entry.name == rest).build()


def _transformer(depth: int) -> Built:
    maker = import_module("timm.models.vision_transformer").VisionTransformer
    model = maker(img_size=32, patch_size=8, embed_dim=64, depth=depth, num_heads=4, num_classes=10)
    return model.eval(), (torch.randn(2, 3, 32, 32),), {}


def _unet() -> Built:
    """Stable Diffusion 1.5's U-Net of full size; small latents, since pruning does not depend on the picture."""
    model = import_module("diffusers").UNet2DConditionModel(cross_attention_dim=768).eval()
    return model, (torch.randn(2, 4, 16, 16), torch.zeros((), dtype=torch.long), torch.randn(2, 7, 768)), {}


def llama_70b() -> Built:
    """A causal language model of Llama 3 70B's shape, on the meta device."""
    transformers = import_module("transformers")
    config = transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        use_cache=False,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).eval()
        tokens = torch.ones(2, 16, dtype=torch.long)
    return model, (), {"input_ids": tokens}
