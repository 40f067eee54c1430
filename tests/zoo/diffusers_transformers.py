"""Transformers of diffusers."""

import torch
from zoo.catalogue import Maker, integers, normal
from zoo.diffusers_unets import TEXT, Arguments, Options, Row, ones, timestep


def flux_ids(length: int, axes: int = 3) -> Maker:
    """Positions of ``length`` tokens in rows of four, on the last two axes: (length, axes)."""
    places = torch.arange(length)
    return lambda: torch.stack([torch.zeros(length)] * (axes - 2) + [places // 4, places % 4], dim=1)


DIT: Options = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 2, "sample_size": 8, "patch_size": 2}
_MMDIT: Options = DIT | {"joint_attention_dim": 32, "caption_projection_dim": 64, "pos_embed_max_size": 8}
FLUX: Options = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 6, 6),
}
_HIDDEN: Arguments = {"hidden_states": normal(2, 4, 8, 8), "encoder_hidden_states": TEXT, "timestep": timestep}
_MM: Arguments = _HIDDEN | {"hidden_states": normal(2, 16, 8, 8)}
PACKED: Arguments = {
    "hidden_states": normal(2, 16, 16),
    "encoder_hidden_states": TEXT,
    "timestep": lambda: torch.rand(2),
    "img_ids": flux_ids(16),
    "txt_ids": lambda: torch.zeros(6, 3),
}
_CLIP_TOKENS: Arguments = _HIDDEN | {"hidden_states": normal(2, 4, 2, 8, 8)}

ROWS: tuple[Row, ...] = (
    (
        "dit",
        "DiTTransformer2DModel",
        DIT | {"num_embeds_ada_norm": 16},
        {
            "hidden_states": normal(2, 4, 8, 8),
            "timestep": lambda: torch.tensor([3, 9]),
            "class_labels": integers(10, 2),
        },
    ),
    ("pixart", "PixArtTransformer2DModel", DIT | {"cross_attention_dim": 64, "caption_channels": 32}, _HIDDEN),
    (
        "sd3",
        "SD3Transformer2DModel",
        _MMDIT | {"pooled_projection_dim": 32},
        _MM | {"pooled_projections": normal(2, 32)},
    ),
    (
        "sd3_dual",
        "SD3Transformer2DModel",
        _MMDIT | {"pooled_projection_dim": 32, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
        _MM | {"pooled_projections": normal(2, 32)},
    ),
    (
        "aura_flow",
        "AuraFlowTransformer2DModel",
        {k: v for k, v in _MMDIT.items() if k != "num_layers"}
        | {"num_mmdit_layers": 2, "num_single_dit_layers": 2, "pos_embed_max_size": 16},
        _HIDDEN | {"timestep": lambda: torch.rand(2)},
    ),
    (
        "flux",
        "FluxTransformer2DModel",
        FLUX | {"pooled_projection_dim": 32},
        PACKED | {"pooled_projections": normal(2, 32)},
    ),
    (
        "hunyuan_dit",
        "HunyuanDiT2DModel",
        DIT
        | {
            "in_channels": 4,
            "hidden_size": 64,
            "cross_attention_dim": 32,
            "cross_attention_dim_t5": 48,
            "pooled_projection_dim": 16,
            "text_len": 6,
            "text_len_t5": 4,
        },
        _HIDDEN
        | {
            "timestep": lambda: torch.tensor([3.0, 250.0]),
            "text_embedding_mask": ones(2, 6),
            "encoder_hidden_states_t5": normal(2, 4, 48),
            "text_embedding_mask_t5": ones(2, 4),
            "image_meta_size": normal(2, 6),
            "style": lambda: torch.zeros(2, dtype=torch.int64),
        },
    ),
    (
        "sana",
        "SanaTransformer2DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "num_layers": 2,
            "num_cross_attention_heads": 4,
            "cross_attention_head_dim": 16,
            "cross_attention_dim": 64,
            "caption_channels": 32,
            "sample_size": 8,
        },
        _HIDDEN,
    ),
    (
        "lumina_next",
        "LuminaNextDiT2DModel",
        {
            "sample_size": 8,
            "hidden_size": 64,
            "num_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "multiple_of": 16,
            "cross_attention_dim": 32,
        },
        _HIDDEN
        | {
            "encoder_mask": ones(2, 6),
            "image_rotary_emb": lambda: torch.polar(torch.ones(8, 8, 8), torch.rand(8, 8, 8)),
            "cross_attention_kwargs": dict,
        },
    ),
    (
        "cogvideox",
        "CogVideoXTransformer3DModel",
        {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 16,
            "text_embed_dim": 32,
            "num_layers": 2,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 5,
            "max_text_seq_length": 6,
        },
        _HIDDEN | {"hidden_states": normal(2, 2, 4, 8, 8)},
    ),
    (
        "cogview4",
        "CogView4Transformer2DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "text_embed_dim": 32,
            "time_embed_dim": 32,
            "condition_dim": 8,
            "sample_size": 8,
            "rope_axes_dim": (8, 8),
        },
        _HIDDEN | {"original_size": normal(2, 2), "target_size": normal(2, 2), "crop_coords": normal(2, 2)},
    ),
    (
        "latte",
        "LatteTransformer3DModel",
        DIT
        | {
            "in_channels": 4,
            "cross_attention_dim": 64,
            "caption_channels": 32,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "video_length": 2,
            "num_embeds_ada_norm": 1000,
        },
        _CLIP_TOKENS,
    ),
    (
        "ltx_video",
        "LTXVideoTransformer3DModel",
        {
            "in_channels": 16,
            "out_channels": 16,
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "cross_attention_dim": 64,
            "num_layers": 2,
            "caption_channels": 32,
        },
        {
            "hidden_states": normal(2, 32, 16),
            "encoder_hidden_states": TEXT,
            "timestep": timestep,
            "encoder_attention_mask": ones(2, 6),
            "num_frames": lambda: 2,
            "height": lambda: 4,
            "width": lambda: 4,
        },
    ),
    (
        "wan",
        "WanTransformer3DModel",
        {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 32,
            "freq_dim": 16,
            "ffn_dim": 96,
            "num_layers": 2,
            "rope_max_seq_len": 16,
        },
        _CLIP_TOKENS,
    ),
    (
        "prior",
        "PriorTransformer",
        {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 2, "embedding_dim": 32, "num_embeddings": 6},
        {
            "hidden_states": normal(2, 32),
            "timestep": timestep,
            "proj_embedding": normal(2, 32),
            "encoder_hidden_states": TEXT,
        },
    ),
    (
        "sd3_controlnet",
        "SD3ControlNetModel",
        _MMDIT | {"pooled_projection_dim": 32},
        _MM | {"pooled_projections": normal(2, 32), "controlnet_cond": normal(2, 16, 8, 8)},
    ),
)
"""Every row of this file."""
