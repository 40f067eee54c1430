"""Transformers of diffusers that make images out of text by flow matching."""

import torch
from zoo.catalogue import integers, normal
from zoo.diffusers_transformers import FLUX, PACKED, flux_ids
from zoo.diffusers_unets import TEXT, Arguments, Options, Row, ones, timestep

_HEADS: Options = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 2}
_LATENT: Arguments = {"hidden_states": normal(2, 4, 8, 8), "encoder_hidden_states": TEXT, "timestep": timestep}
_SIZES: Arguments = {"original_size": normal(2, 2), "target_size": normal(2, 2), "crop_coords": normal(2, 2)}
_FOUR: Arguments = PACKED | {"img_ids": flux_ids(16, 4), "txt_ids": flux_ids(6, 4)}
_QWEN: Options = _HEADS | {"in_channels": 16, "joint_attention_dim": 32, "axes_dims_rope": (4, 6, 6)}
_SHAPES: Arguments = {
    "hidden_states": normal(2, 16, 16),
    "encoder_hidden_states": TEXT,
    "timestep": lambda: torch.rand(2),
    "encoder_hidden_states_mask": ones(2, 6),
    "img_shapes": lambda: [[(1, 4, 4)]] * 2,
}


def _positions(length: int) -> torch.Tensor:
    return torch.arange(length).expand(2, length)


ROWS: tuple[Row, ...] = (
    (
        "bria",
        "BriaTransformer2DModel",
        FLUX,
        PACKED,
    ),
    (
        "bria_fibo",
        "BriaFiboTransformer2DModel",
        FLUX | {"text_encoder_dim": 32},
        PACKED | {"text_encoder_layers": lambda: [torch.randn(2, 6, 32) for _ in range(4)]},
    ),
    (
        "chroma",
        "ChromaTransformer2DModel",
        FLUX | {"approximator_num_channels": 16, "approximator_hidden_dim": 32, "approximator_layers": 2},
        PACKED,
    ),
    (
        "cogview3",
        "CogView3PlusTransformer2DModel",
        _HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "text_embed_dim": 32,
            "time_embed_dim": 32,
            "condition_dim": 8,
            "pos_embed_max_size": 8,
            "sample_size": 8,
        },
        _LATENT | _SIZES,
    ),
    (
        "flux2",
        "Flux2Transformer2DModel",
        FLUX | {"axes_dims_rope": (4, 4, 4, 4), "timestep_guidance_channels": 32},
        _FOUR | {"guidance": lambda: torch.rand(2)},
    ),
    (
        "glm_image",
        "GlmImageTransformer2DModel",
        _HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "text_embed_dim": 32,
            "time_embed_dim": 32,
            "condition_dim": 8,
            "prior_vq_quantizer_codebook_size": 32,
        },
        _LATENT
        | {
            "prior_token_id": integers(32, 2, 16),
            "prior_token_drop": lambda: torch.zeros(2, dtype=torch.bool),
            "target_size": normal(2, 2),
            "crop_coords": normal(2, 2),
        },
    ),
    (
        "hidream",
        "HiDreamImageTransformer2DModel",
        _HEADS
        | {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_single_layers": 1,
            "caption_channels": [32, 32],
            "text_emb_dim": 32,
            "axes_dims_rope": (8, 4, 4),
            "max_resolution": (8, 8),
            "llama_layers": [0, 1, 1],
            "force_inference_output": True,
        },
        {
            "hidden_states": normal(2, 4, 8, 8),
            "timesteps": timestep,
            "encoder_hidden_states_t5": TEXT,
            "encoder_hidden_states_llama3": normal(2, 2, 6, 32),
            "pooled_embeds": normal(2, 32),
        },
    ),
    (
        "hunyuan_image",
        "HunyuanImageTransformer2DModel",
        _HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "text_embed_dim": 32,
            "text_embed_2_dim": 24,
            "rope_axes_dim": (8, 8),
        },
        _LATENT
        | {
            "timestep": lambda: torch.tensor([3.0, 250.0]),
            "encoder_attention_mask": ones(2, 6),
            "encoder_hidden_states_2": normal(2, 4, 24),
            "encoder_attention_mask_2": ones(2, 4),
        },
    ),
    (
        "krea2",
        "Krea2Transformer2DModel",
        _HEADS
        | {
            "in_channels": 16,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "timestep_embed_dim": 32,
            "text_hidden_dim": 32,
            "num_text_layers": 3,
            "text_num_attention_heads": 2,
            "text_num_key_value_heads": 2,
            "text_intermediate_size": 48,
            "num_layerwise_text_blocks": 1,
            "num_refiner_text_blocks": 1,
            "axes_dims_rope": (4, 6, 6),
        },
        {
            "hidden_states": normal(2, 16, 16),
            "encoder_hidden_states": normal(2, 6, 3, 32),
            "timestep": lambda: torch.rand(2),
            "position_ids": flux_ids(22),
        },
    ),
    (
        "longcat_image",
        "LongCatImageTransformer2DModel",
        FLUX | {"pooled_projection_dim": 32},
        PACKED,
    ),
    (
        "lumina2",
        "Lumina2Transformer2DModel",
        {
            "sample_size": 8,
            "in_channels": 4,
            "hidden_size": 64,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "multiple_of": 16,
            "axes_dim_rope": (8, 4, 4),
            "axes_lens": (16, 16, 16),
            "cap_feat_dim": 32,
        },
        _LATENT | {"encoder_attention_mask": lambda: torch.ones(2, 6, dtype=torch.bool)},
    ),
    (
        "nucleus_moe_image",
        "NucleusMoEImageTransformer2DModel",
        _QWEN
        | {
            "out_channels": 4,
            "num_key_value_heads": 2,
            "num_experts": 4,
            "moe_intermediate_dim": 32,
            "capacity_factors": 2.0,
            "num_layers": 5,
        },
        _SHAPES,
    ),
    (
        "omnigen",
        "OmniGenTransformer2DModel",
        {
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 96,
            "num_layers": 2,
            "pad_token_id": 0,
            "vocab_size": 64,
            "max_position_embeddings": 64,
            "original_max_position_embeddings": 64,
            "rope_scaling": {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
            "pos_embed_max_size": 8,
            "time_step_dim": 32,
        },
        {
            "hidden_states": normal(2, 4, 8, 8),
            "timestep": timestep,
            "input_ids": integers(64, 2, 6),
            "input_img_latents": list,
            "input_image_sizes": dict,
            "attention_mask": ones(2, 1, 23, 23),
            "position_ids": lambda: _positions(23),
        },
    ),
    (
        "ovis_image",
        "OvisImageTransformer2DModel",
        FLUX | {"out_channels": 16},
        PACKED,
    ),
    (
        "prx",
        "PRXTransformer2DModel",
        {
            "in_channels": 4,
            "context_in_dim": 32,
            "hidden_size": 64,
            "num_heads": 4,
            "depth": 2,
            "axes_dim": [8, 8],
        },
        _LATENT | {"timestep": lambda: torch.rand(2), "attention_mask": lambda: torch.ones(2, 6, dtype=torch.bool)},
    ),
    ("qwen_image", "QwenImageTransformer2DModel", _QWEN | {"out_channels": 4}, _SHAPES),
    (
        "z_image",
        "ZImageTransformer2DModel",
        {
            "in_channels": 4,
            "dim": 64,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 4,
            "n_kv_heads": 4,
            "cap_feat_dim": 32,
            "axes_dims": [8, 4, 4],
            "axes_lens": [64, 16, 16],
        },
        {
            "x": lambda: [torch.randn(4, 1, 8, 8) for _ in range(2)],
            "t": lambda: torch.rand(2),
            "cap_feats": lambda: [torch.randn(6, 32) for _ in range(2)],
            "return_dict": lambda: False,
        },
    ),
)
"""Every row of this file."""
