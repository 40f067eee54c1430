"""U-Nets of diffusers and what is attached to them."""

from typing import Any

import torch
from zoo.catalogue import Maker, integers, normal

Options = dict[str, Any]
Arguments = dict[str, Maker]
Row = tuple[str, str, Options, Arguments]
"""Name of the entry, class of diffusers, options of its configuration, named inputs."""


def timestep() -> torch.Tensor:
    return torch.tensor([3, 250])


def xl_conditions() -> dict[str, torch.Tensor]:
    return {"text_embeds": torch.randn(2, 32), "time_ids": torch.randn(2, 6)}


def ones(*shape: int) -> Maker:
    return lambda: torch.ones(shape)


_LATENT = normal(2, 4, 16, 16)
TEXT = normal(2, 6, 32)
_UNET: Options = {"sample_size": 16, "block_out_channels": (32, 64), "norm_num_groups": 8, "layers_per_block": 2}
CROSS: Options = _UNET | {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
_PLAIN: Options = _UNET | {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
}
_XL: Options = CROSS | {
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}
_VIDEO: Options = _UNET | {"cross_attention_dim": 32}
_DENOISE: Arguments = {"sample": _LATENT, "timestep": timestep}
CONDITIONED: Arguments = _DENOISE | {"encoder_hidden_states": TEXT}
_CLIP: Arguments = {"sample": normal(2, 4, 3, 16, 16), "timestep": timestep, "encoder_hidden_states": TEXT}
ROWS: tuple[Row, ...] = (
    (
        "unet_1d",
        "UNet1DModel",
        {
            "sample_size": 32,
            "block_out_channels": (64, 64, 128),
            "extra_in_channels": 128,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
            "up_block_types": ("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
        },
        {"sample": normal(2, 4, 32), "timestep": timestep},
    ),
    ("unet_2d", "UNet2DModel", _PLAIN | {"in_channels": 4, "out_channels": 4}, _DENOISE),
    (
        "unet_2d_scale_shift",
        "UNet2DModel",
        _PLAIN
        | {
            "in_channels": 4,
            "out_channels": 4,
            "resnet_time_scale_shift": "scale_shift",
            "downsample_type": "resnet",
            "upsample_type": "resnet",
        },
        _DENOISE,
    ),
    ("unet_2d_condition", "UNet2DConditionModel", CROSS, CONDITIONED),
    (
        "unet_2d_condition_straddling",
        "UNet2DConditionModel",
        CROSS
        | {
            "block_out_channels": (32, 64, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
        },
        CONDITIONED,
    ),
    ("unet_xl", "UNet2DConditionModel", _XL, CONDITIONED | {"added_cond_kwargs": xl_conditions}),
    (
        "unet_3d",
        "UNet3DConditionModel",
        _VIDEO
        | {
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            "attention_head_dim": 8,
        },
        _CLIP,
    ),
    (
        "unet_motion",
        "UNetMotionModel",
        _VIDEO
        | {
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
            "num_attention_heads": 4,
            "motion_num_attention_heads": 4,
            "motion_max_seq_length": 4,
        },
        _CLIP | {"encoder_hidden_states": normal(6, 6, 32)},
    ),
    (
        "unet_spatio_temporal",
        "UNetSpatioTemporalConditionModel",
        {
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "cross_attention_dim": 32,
            "num_attention_heads": (2, 4),
            "num_frames": 3,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24,
            "layers_per_block": 2,
        },
        {
            "sample": normal(2, 3, 8, 16, 16),
            "timestep": timestep,
            "encoder_hidden_states": normal(2, 1, 32),
            "added_time_ids": normal(2, 3),
        },
    ),
    (
        "kandinsky3_unet",
        "Kandinsky3UNet",
        {
            "time_embedding_dim": 32,
            "groups": 8,
            "attention_head_dim": 8,
            "layers_per_block": 2,
            "block_out_channels": (32, 48, 64, 64),
            "cross_attention_dim": 32,
            "encoder_hid_dim": 32,
        },
        {
            "sample": normal(2, 4, 16, 16),
            "timestep": timestep,
            "encoder_hidden_states": TEXT,
            "encoder_attention_mask": ones(2, 6),
        },
    ),
    (
        "stable_cascade_unet",
        "StableCascadeUNet",
        {
            "in_channels": 4,
            "out_channels": 4,
            "timestep_ratio_embedding_dim": 16,
            "conditioning_dim": 32,
            "block_out_channels": (32, 64),
            "num_attention_heads": (2, 4),
            "down_num_layers_per_block": (2, 2),
            "up_num_layers_per_block": (2, 2),
            "clip_text_pooled_in_channels": 32,
            "clip_seq": 2,
        },
        {"sample": _LATENT, "timestep_ratio": lambda: torch.rand(2), "clip_text_pooled": normal(2, 1, 32)},
    ),
    (
        "uvit",
        "UVit2DModel",
        {
            "hidden_size": 64,
            "cond_embed_dim": 32,
            "micro_cond_encode_dim": 8,
            "micro_cond_embed_dim": 40,
            "encoder_hidden_size": 32,
            "vocab_size": 40,
            "codebook_size": 32,
            "in_channels": 32,
            "block_out_channels": 32,
            "num_res_blocks": 2,
            "block_num_heads": 4,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "sample_size": 8,
            "downsample": True,
            "upsample": True,
        },
        {
            "input_ids": integers(32, 2, 8, 8),
            "encoder_hidden_states": TEXT,
            "pooled_text_emb": normal(2, 32),
            "micro_conds": normal(2, 5),
        },
    ),
    (
        "controlnet",
        "ControlNetModel",
        {k: v for k, v in CROSS.items() if k not in ("up_block_types", "sample_size")}
        | {"conditioning_embedding_out_channels": (16, 32)},
        CONDITIONED | {"controlnet_cond": normal(2, 3, 32, 32)},
    ),
)
"""Every row of this file."""
