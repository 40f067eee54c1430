"""Transformers of diffusers that make videos."""

import torch
from zoo.catalogue import normal
from zoo.diffusers_unets import TEXT, Arguments, Options, Row, ones, timestep

_HEADS: Options = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 2}
_FOUR: Options = _HEADS | {"in_channels": 4, "out_channels": 4}
_WAN: Options = _FOUR | {"text_dim": 32, "freq_dim": 16, "ffn_dim": 96, "rope_max_seq_len": 16}
_HUNYUAN: Options = _FOUR | {"num_refiner_layers": 1, "text_embed_dim": 32, "rope_axes_dim": (4, 6, 6)}
_CLIP: Arguments = {
    "hidden_states": normal(2, 4, 2, 8, 8),
    "encoder_hidden_states": TEXT,
    "timestep": timestep,
}
_MASKED: Arguments = _CLIP | {"encoder_attention_mask": ones(2, 6)}


def _floats() -> torch.Tensor:
    return torch.tensor([3.0, 250.0])


def _rotations() -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[torch.Tensor]]:
    """Cosines and sines of positions in time, height and width, and where each token is: (1, 32)."""
    places = torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(4)).T
    return [(torch.rand(4, 8), torch.rand(4, 8)) for _ in range(3)], [place[None] for place in places]


ROWS: tuple[Row, ...] = (
    (
        "allegro",
        "AllegroTransformer3DModel",
        _FOUR
        | {
            "attention_head_dim": 24,
            "cross_attention_dim": 96,
            "caption_channels": 32,
            "sample_height": 8,
            "sample_width": 8,
            "sample_frames": 2,
        },
        _CLIP
        | {
            "attention_mask": ones(2, 2, 8, 8),
            "encoder_attention_mask": ones(2, 6),
            "image_rotary_emb": _rotations,
        },
    ),
    (
        "anyflow",
        "AnyFlowTransformer3DModel",
        _WAN,
        _CLIP
        | {
            "hidden_states": normal(2, 2, 4, 8, 8),
            "timestep": lambda: torch.tensor([[3, 250]] * 2),
            "r_timestep": lambda: torch.tensor([[1, 240]] * 2),
        },
    ),
    ("chronoedit", "ChronoEditTransformer3DModel", _WAN | {"rope_temporal_skip_len": 2}, _CLIP),
    (
        "consisid",
        "ConsisIDTransformer3DModel",
        _FOUR
        | {
            "time_embed_dim": 16,
            "text_embed_dim": 32,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 5,
            "max_text_seq_length": 6,
        },
        _CLIP | {"hidden_states": normal(2, 2, 4, 8, 8)},
    ),
    (
        "cosmos",
        "CosmosTransformer3DModel",
        _FOUR
        | {
            "text_embed_dim": 32,
            "adaln_lora_dim": 16,
            "max_size": (4, 16, 16),
        },
        _CLIP | {"fps": lambda: 24, "padding_mask": lambda: torch.zeros(1, 1, 8, 8)},
    ),
    (
        "easyanimate",
        "EasyAnimateTransformer3DModel",
        _FOUR
        | {
            "patch_size": 2,
            "mmdit_layers": 1,
            "sample_width": 8,
            "sample_height": 8,
            "time_embed_dim": 16,
            "text_embed_dim": 32,
            "time_position_encoding_type": "3d_rope",
        },
        _CLIP,
    ),
    (
        "hunyuan_video",
        "HunyuanVideoTransformer3DModel",
        _HUNYUAN | {"num_single_layers": 2, "pooled_projection_dim": 32},
        _MASKED | {"timestep": _floats, "pooled_projections": normal(2, 32), "guidance": _floats},
    ),
    (
        "hunyuan_video15",
        "HunyuanVideo15Transformer3DModel",
        _HUNYUAN | {"text_embed_2_dim": 24, "image_embed_dim": 16, "patch_size": 2},
        _MASKED
        | {
            "timestep": _floats,
            "encoder_hidden_states_2": normal(2, 4, 24),
            "encoder_attention_mask_2": ones(2, 4),
            "image_embeds": normal(2, 3, 16),
        },
    ),
    (
        "hunyuan_video_framepack",
        "HunyuanVideoFramepackTransformer3DModel",
        _HUNYUAN
        | {"num_single_layers": 2, "pooled_projection_dim": 32, "has_image_proj": True, "image_proj_dim": 16}
        | {"has_clean_x_embedder": True},
        _MASKED
        | {
            "timestep": _floats,
            "pooled_projections": normal(2, 32),
            "guidance": _floats,
            "image_embeds": normal(2, 3, 16),
            "indices_latents": lambda: torch.arange(2),
            "latents_clean": normal(2, 4, 2, 8, 8),
            "indices_latents_clean": lambda: torch.arange(2),
            "latents_history_2x": normal(2, 4, 2, 8, 8),
            "indices_latents_history_2x": lambda: torch.arange(2),
            "latents_history_4x": normal(2, 4, 4, 8, 8),
            "indices_latents_history_4x": lambda: torch.arange(4),
        },
    ),
    (
        "kandinsky5",
        "Kandinsky5Transformer3DModel",
        {
            "in_text_dim": 32,
            "in_text_dim2": 24,
            "time_dim": 32,
            "model_dim": 64,
            "ff_dim": 96,
            "num_text_blocks": 1,
            "num_visual_blocks": 2,
            "axes_dims": (4, 6, 6),
        },
        {
            "hidden_states": normal(2, 2, 8, 8, 4),
            "encoder_hidden_states": TEXT,
            "timestep": _floats,
            "pooled_projections": normal(2, 24),
            "visual_rope_pos": lambda: [torch.arange(2), torch.arange(4), torch.arange(4)],
            "text_rope_pos": lambda: torch.arange(6),
        },
    ),
    (
        "ltx2",
        "LTX2VideoTransformer3DModel",
        _HEADS
        | {
            "in_channels": 16,
            "out_channels": 16,
            "cross_attention_dim": 64,
            "caption_channels": 32,
            "audio_in_channels": 8,
            "audio_out_channels": 8,
            "audio_num_attention_heads": 4,
            "audio_attention_head_dim": 8,
            "audio_cross_attention_dim": 32,
        },
        {
            "hidden_states": normal(2, 32, 16),
            "audio_hidden_states": normal(2, 6, 8),
            "encoder_hidden_states": TEXT,
            "audio_encoder_hidden_states": TEXT,
            "timestep": timestep,
            "encoder_attention_mask": ones(2, 6),
            "audio_encoder_attention_mask": ones(2, 6),
            "num_frames": lambda: 2,
            "height": lambda: 4,
            "width": lambda: 4,
            "fps": lambda: 24.0,
            "audio_num_frames": lambda: 6,
        },
    ),
    (
        "mochi",
        "MochiTransformer3DModel",
        _FOUR | {"pooled_projection_dim": 32, "text_embed_dim": 32, "time_embed_dim": 16, "max_sequence_length": 6},
        _CLIP | {"encoder_attention_mask": lambda: torch.ones(2, 6, dtype=torch.bool)},
    ),
    (
        "motif_video",
        "MotifVideoTransformer3DModel",
        _FOUR | {"num_single_layers": 2, "num_decoder_layers": 1, "text_embed_dim": 32, "rope_axes_dim": (4, 6, 6)},
        _MASKED | {"timestep": _floats},
    ),
    (
        "sana_video",
        "SanaVideoTransformer3DModel",
        _FOUR
        | {
            "num_cross_attention_heads": 4,
            "cross_attention_head_dim": 16,
            "cross_attention_dim": 64,
            "caption_channels": 32,
            "sample_size": 8,
            "rope_max_seq_len": 16,
        },
        _CLIP,
    ),
    ("skyreels_v2", "SkyReelsV2Transformer3DModel", _WAN, _CLIP),
    (
        "transformer_temporal",
        "TransformerTemporalModel",
        {"num_attention_heads": 4, "attention_head_dim": 16, "in_channels": 32, "norm_num_groups": 8},
        {"hidden_states": normal(4, 32, 8, 8), "num_frames": lambda: 2},
    ),
    (
        "wan_vace",
        "WanVACETransformer3DModel",
        _WAN | {"vace_layers": [0, 1], "vace_in_channels": 8},
        _CLIP | {"control_hidden_states": normal(2, 8, 2, 8, 8), "control_hidden_states_scale": lambda: torch.ones(2)},
    ),
)
"""Every row of this file."""
