"""Models of diffusers that make or code sound."""

import torch
from zoo.catalogue import normal
from zoo.diffusers_unets import CROSS, TEXT, Row, timestep

ROWS: tuple[Row, ...] = (
    (
        "ace_step",
        "AceStepTransformer1DModel",
        {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "in_channels": 24,
            "audio_acoustic_hidden_dim": 8,
            "sliding_window": 4,
            "encoder_hidden_size": 32,
        },
        {
            "hidden_states": normal(2, 16, 8),
            "timestep": lambda: torch.rand(2),
            "timestep_r": lambda: torch.rand(2),
            "encoder_hidden_states": TEXT,
            "context_latents": normal(2, 16, 16),
        },
    ),
    (
        "audioldm2_unet",
        "AudioLDM2UNet2DConditionModel",
        CROSS | {"cross_attention_dim": ((None, 32, 32),) * 2},
        {
            "sample": normal(2, 4, 16, 16),
            "timestep": timestep,
            "encoder_hidden_states": TEXT,
            "encoder_hidden_states_1": TEXT,
        },
    ),
    (
        "longcat_audio",
        "LongCatAudioDiTTransformer",
        {"dit_dim": 64, "dit_depth": 2, "dit_heads": 4, "dit_text_dim": 32, "latent_dim": 16},
        {
            "hidden_states": normal(2, 12, 16),
            "encoder_hidden_states": TEXT,
            "encoder_attention_mask": lambda: torch.ones(2, 6, dtype=torch.bool),
            "timestep": lambda: torch.rand(2),
            "latent_cond": normal(2, 12, 16),
        },
    ),
    (
        "oobleck",
        "AutoencoderOobleck",
        {
            "encoder_hidden_size": 32,
            "downsampling_ratios": [2, 4],
            "channel_multiples": [1, 2],
            "decoder_channels": 16,
            "decoder_input_channels": 16,
        },
        {"sample": normal(2, 2, 64)},
    ),
    (
        "stable_audio",
        "StableAudioDiTModel",
        {
            "sample_size": 12,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "num_key_value_attention_heads": 2,
            "cross_attention_dim": 32,
            "time_proj_dim": 32,
            "global_states_input_dim": 32,
            "cross_attention_input_dim": 32,
        },
        {
            "hidden_states": normal(2, 16, 12),
            "timestep": lambda: torch.rand(2),
            "encoder_hidden_states": TEXT,
            "global_hidden_states": normal(2, 1, 32),
            "rotary_embedding": lambda: (torch.rand(13, 8), torch.rand(13, 8)),
        },
    ),
    (
        "t5_film",
        "T5FilmDecoder",
        {
            "input_dims": 24,
            "targets_length": 12,
            "d_model": 64,
            "num_layers": 2,
            "num_heads": 4,
            "d_kv": 16,
            "d_ff": 96,
        },
        {
            "encodings_and_masks": lambda: [(torch.randn(2, 6, 64), torch.ones(2, 6))],
            "decoder_input_tokens": normal(2, 12, 24),
            "decoder_noise_time": lambda: torch.rand(2),
        },
    ),
)
"""Every row of this file."""
