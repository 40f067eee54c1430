"""Autoencoders of diffusers."""

from zoo.catalogue import normal
from zoo.diffusers_unets import Arguments, Options, Row

_VAE: Options = {
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "norm_num_groups": 8,
}
_PIXELS: Arguments = {"sample": normal(2, 3, 32, 32)}

ROWS: tuple[Row, ...] = (
    ("autoencoder_kl", "AutoencoderKL", _VAE, _PIXELS),
    (
        "autoencoder_tiny",
        "AutoencoderTiny",
        {
            "encoder_block_out_channels": (24, 24),
            "decoder_block_out_channels": (24, 24),
            "num_encoder_blocks": (2, 2),
            "num_decoder_blocks": (2, 2),
        },
        _PIXELS,
    ),
    (
        "autoencoder_dc",
        "AutoencoderDC",
        {
            "latent_channels": 16,
            "attention_head_dim": 16,
            "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "encoder_block_out_channels": (32, 64),
            "decoder_block_out_channels": (32, 64),
            "encoder_layers_per_block": (2, 2),
            "decoder_layers_per_block": (2, 2),
            "encoder_qkv_multiscales": ((), (5,)),
            "decoder_qkv_multiscales": ((), (5,)),
        },
        _PIXELS,
    ),
    (
        "autoencoder_asymmetric",
        "AsymmetricAutoencoderKL",
        {
            "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
            "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
            "down_block_out_channels": (32, 64),
            "up_block_out_channels": (48, 96),
            "norm_num_groups": 8,
        },
        _PIXELS,
    ),
    (
        "autoencoder_temporal",
        "AutoencoderKLTemporalDecoder",
        {
            "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
            "block_out_channels": (32, 64),
            "layers_per_block": 2,
        },
        _PIXELS | {"num_frames": lambda: 2},
    ),
    ("vq", "VQModel", _VAE | {"num_vq_embeddings": 32}, _PIXELS),
)
"""Every row of this file."""
