"""Text, sound and table models of many packages."""

import importlib
from typing import Any

import torch
from torch import nn
from zoo.catalogue import integers, normal, tensors
from zoo.other_packages import Options, rows

_TOKENS = tensors(integers(64, 2, 16))
_SIGNAL = tensors(normal(2, 16, 64))


_LM: Options = {"num_tokens": 64, "dim": 64, "depth": 2, "heads": 4}
_PERCEIVER: Options = {
    "depth": 2,
    "num_latents": 8,
    "latent_dim": 32,
    "cross_dim_head": 16,
    "latent_dim_head": 16,
    "latent_heads": 2,
}


def _decoder_of_perceiver() -> nn.Module:
    made: nn.Module = importlib.import_module("perceiver_pytorch").PerceiverIO(
        dim=24, queries_dim=20, logits_dim=12, **_PERCEIVER
    )
    return made


def _speech() -> nn.Module:
    model = importlib.import_module("whisper.model")
    sizes = model.ModelDimensions(8, 16, 64, 4, 2, 64, 16, 64, 4, 2)
    made: nn.Module = model.Whisper(sizes)
    return made


def _between_linear_layers(stack: nn.Module) -> nn.Module:
    """A stack without ends of its own: its width is no longer the width of the model's input and output."""
    return nn.Sequential(nn.Linear(20, 64), stack, nn.Linear(64, 12))


def _recogniser() -> nn.Module:
    library = importlib.import_module("conformer")
    return _between_linear_layers(library.Conformer(64, depth=2, heads=4, dim_head=16, conv_kernel_size=5))


def _landmarks() -> nn.Module:
    library = importlib.import_module("nystrom_attention")
    sizes = {"num_landmarks": 4, "attn_values_residual_conv_kernel": 5}
    return _between_linear_layers(library.Nystromformer(dim=64, depth=2, dim_head=16, heads=4, **sizes))


class _Quantized(nn.Module):
    """An autoencoder with a quantizer in its middle, which is as wide as what it lies between.

    Args:
        dim: Width of the middle.
        options: Those of the quantizer.
    """

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, dim))
        self.quantize = importlib.import_module("vector_quantize_pytorch").VectorQuantize(dim=dim, **options)
        self.decoder = nn.Sequential(nn.Linear(dim, 64), nn.GELU(), nn.Linear(64, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x: (batch, length, 8)``."""
        quantized, _, _ = self.quantize(self.encoder(x))
        out: torch.Tensor = self.decoder(quantized)
        return out


def _attentive_tables() -> nn.Module:
    network = importlib.import_module("pytorch_tabnet.tab_network")
    made: nn.Module = network.TabNet(input_dim=12, output_dim=3, group_attention_matrix=torch.eye(12))
    return made


def _two_towers(**text: Any) -> nn.Module:
    model = importlib.import_module("open_clip.model")
    image = model.CLIPVisionCfg(layers=2, width=64, head_width=16, patch_size=8, image_size=32)
    made: nn.Module = model.CLIP(32, image, model.CLIPTextCfg(16, 64, width=48, heads=4, layers=2, **text))
    return made


def _two_towers_resnet() -> nn.Module:
    model = importlib.import_module("open_clip.model")
    image = model.CLIPVisionCfg(layers=(1, 1, 1, 1), width=16, head_width=16, image_size=64)
    made: nn.Module = model.CLIP(32, image, model.CLIPTextCfg(16, 64, width=48, heads=4, layers=2))
    return made


def _captioner() -> nn.Module:
    library = importlib.import_module("open_clip.coca_model")
    configuration = importlib.import_module("open_clip.model")
    image = configuration.CLIPVisionCfg(
        layers=2,
        width=64,
        head_width=16,
        patch_size=8,
        image_size=32,
        attentional_pool=True,
        attn_pooler_heads=4,
        output_tokens=True,
    )
    text = configuration.CLIPTextCfg(16, 64, width=64, heads=4, layers=2, embed_cls=True, output_tokens=True)
    decoder = library.MultimodalCfg(width=64, heads=4, layers=2, context_length=16, vocab_size=64)
    made: nn.Module = library.CoCa(64, decoder, text, image)
    return made


TOWERS = rows(
    "open_clip",
    ("clip", _two_towers, {}, tensors(normal(2, 3, 32, 32), integers(64, 2, 16))),
    ("clip_resnet", _two_towers_resnet, {}, tensors(normal(2, 3, 64, 64), integers(64, 2, 16))),
    ("coca", _captioner, {}, tensors(normal(2, 3, 32, 32), integers(64, 2, 16))),
)

SINGLE = (
    *rows("whisper", ("whisper", _speech, {}, tensors(normal(2, 8, 32), integers(64, 2, 9)))),
    *rows(
        "conformer",
        ("conformer", _recogniser, {}, tensors(normal(2, 16, 20))),
    ),
    *rows(
        "perceiver_pytorch",
        (
            "perceiver",
            "perceiver_pytorch:Perceiver",
            _PERCEIVER | {"num_freq_bands": 4, "max_freq": 10.0, "num_classes": 10},
            tensors(normal(2, 8, 8, 3)),
        ),
        ("perceiver_io", _decoder_of_perceiver, {}, tensors(normal(2, 10, 24), queries=normal(6, 20))),
    ),
    *rows(
        "performer_pytorch",
        (
            "performer",
            "performer_pytorch:PerformerLM",
            _LM | {"dim_head": 16, "max_seq_len": 32, "nb_features": 8},
            _TOKENS,
        ),
    ),
    *rows(
        "reformer_pytorch",
        (
            "reformer",
            "reformer_pytorch:ReformerLM",
            _LM | {"dim_head": 16, "max_seq_len": 32, "bucket_size": 4, "n_hashes": 2, "ff_chunks": 1, "causal": True},
            _TOKENS,
        ),
    ),
    *rows("linformer", ("linformer", "linformer:LinformerLM", _LM | {"seq_len": 16, "k": 8}, _TOKENS)),
    *rows(
        "linear_attention_transformer",
        (
            "linear_attention",
            "linear_attention_transformer:LinearAttentionTransformerLM",
            _LM | {"dim_head": 16, "max_seq_len": 16, "causal": False},
            _TOKENS,
        ),
    ),
    *rows(
        "local_attention",
        (
            "local_attention",
            "local_attention:LocalTransformer",
            _LM | {"dim_head": 16, "max_seq_len": 32, "local_attn_window_size": 8, "num_residual_streams": 1},
            _TOKENS,
        ),
    ),
    *rows("nystrom_attention", ("nystromformer", _landmarks, {}, tensors(normal(2, 16, 20)))),
    *rows(
        "g_mlp_pytorch",
        (
            "gmlp",
            "g_mlp_pytorch:gMLP",
            {"num_tokens": 64, "dim": 64, "depth": 2, "seq_len": 16, "causal": True, "attn_dim": 16},
            _TOKENS,
        ),
    ),
    *rows(
        "siren_pytorch",
        (
            "siren",
            "siren_pytorch:SirenNet",
            {"dim_in": 2, "dim_hidden": 64, "dim_out": 3, "num_layers": 3},
            tensors(normal(2, 20, 2)),
        ),
    ),
    *rows(
        "pytorch_tcn",
        ("tcn", "pytorch_tcn:TCN", {"num_inputs": 16, "num_channels": [32, 32, 24], "kernel_size": 3}, _SIGNAL),
        (
            "tcn_gated",
            "pytorch_tcn:TCN",
            {
                "num_inputs": 16,
                "num_channels": [32, 24],
                "kernel_size": 3,
                "use_skip_connections": True,
                "use_gate": True,
                "causal": False,
            },
            _SIGNAL,
        ),
    ),
    *rows(
        "rtdl_revisiting_models",
        (
            "mlp",
            "rtdl_revisiting_models:MLP",
            {"d_in": 12, "d_out": 3, "n_blocks": 3, "d_block": 48, "dropout": 0.1},
            tensors(normal(2, 12)),
        ),
        (
            "resnet",
            "rtdl_revisiting_models:ResNet",
            {
                "d_in": 12,
                "d_out": 3,
                "n_blocks": 2,
                "d_block": 48,
                "d_hidden": 64,
                "d_hidden_multiplier": None,
                "dropout1": 0.1,
                "dropout2": 0.0,
            },
            tensors(normal(2, 12)),
        ),
        (
            "ft_transformer",
            "rtdl_revisiting_models:FTTransformer",
            {
                "n_cont_features": 5,
                "cat_cardinalities": [4, 7],
                "d_out": 3,
                "n_blocks": 2,
                "d_block": 64,
                "attention_n_heads": 4,
                "attention_dropout": 0.1,
                "ffn_d_hidden": 96,
                "ffn_d_hidden_multiplier": None,
                "ffn_dropout": 0.1,
                "residual_dropout": 0.0,
            },
            tensors(normal(2, 5), integers(4, 2, 2)),
        ),
    ),
    *rows("pytorch_tabnet", ("tabnet", _attentive_tables, {}, tensors(normal(2, 12)))),
    *rows(
        "snac",
        (
            "snac",
            "snac:SNAC",
            {
                "encoder_dim": 16,
                "encoder_rates": [2, 2],
                "decoder_dim": 64,
                "decoder_rates": [2, 2],
                "attn_window_size": None,
                "codebook_size": 16,
                "codebook_dim": 4,
                "vq_strides": [2, 1],
            },
            tensors(normal(2, 1, 64)),
        ),
    ),
    *rows(
        "vector_quantize_pytorch",
        (
            "vector_quantize",
            _Quantized,
            {"dim": 32, "codebook_size": 16, "codebook_dim": 16},
            tensors(normal(2, 10, 8)),
        ),
    ),
)

_UNET: Options = {"dim": 16, "dim_mults": (1, 2, 4), "attn_dim_head": 8, "attn_heads": 2}
DIFFUSION = rows(
    "denoising_diffusion_pytorch",
    ("unet", "denoising_diffusion_pytorch:Unet", _UNET, tensors(normal(2, 3, 16, 16), integers(100, 2))),
    (
        "unet_self_condition",
        "denoising_diffusion_pytorch:Unet",
        _UNET | {"self_condition": True, "learned_sinusoidal_cond": True},
        tensors(normal(2, 3, 16, 16), integers(100, 2)),
    ),
    ("unet_1d", "denoising_diffusion_pytorch:Unet1D", _UNET, tensors(normal(2, 3, 32), integers(100, 2))),
    (
        "karras_unet",
        "denoising_diffusion_pytorch:KarrasUnet",
        {
            "image_size": 16,
            "dim": 16,
            "dim_max": 32,
            "num_classes": 5,
            "num_downsamples": 2,
            "num_blocks_per_stage": 1,
            "attn_res": (8,),
            "attn_dim_head": 8,
        },
        tensors(normal(2, 4, 16, 16), integers(100, 2), class_labels=integers(5, 2)),
    ),
)

ENTRIES = (*TOWERS, *SINGLE, *DIFFUSION)
"""Every entry of this file."""
