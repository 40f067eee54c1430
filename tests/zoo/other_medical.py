"""Networks of monai for medical images, in two and three dimensions."""

from collections.abc import Callable

from zoo.catalogue import Inputs, integers, normal, tensors
from zoo.other_packages import Options, Row, rows

_VOLUME = tensors(normal(2, 1, 16, 16, 16))
_CUBE = tensors(normal(2, 1, 32, 32, 32))
_ENDS: Options = {"in_channels": 1, "out_channels": 3}
_UNET: Options = _ENDS | {"spatial_dims": 3, "channels": (16, 24, 32), "strides": (2, 2)}
_DYN: Options = {
    "kernel_size": (3, 3, 3),
    "strides": (1, 2, 2),
    "upsample_kernel_size": (2, 2),
    "filters": (16, 24, 32),
    "res_block": True,
}
_LATENT: Options = {
    "spatial_dims": 2,
    "in_channels": 1,
    "channels": (16, 32),
    "norm_num_groups": 8,
    "num_res_blocks": 1,
}
_DIFFUSION: Options = _LATENT | {"out_channels": 1, "attention_levels": (False, True), "num_head_channels": 8}


def _monai(name: str, class_name: str, options: Options, inputs: Callable[[], Inputs] = _VOLUME) -> Row:
    return name, f"monai.networks.nets:{class_name}", options, inputs


ENTRIES = rows(
    "monai",
    _monai("unet", "UNet", _UNET | {"num_res_units": 2}),
    _monai("attention_unet", "AttentionUnet", _UNET),
    _monai("basic_unet", "BasicUNet", _ENDS | {"features": (16, 16, 24, 24, 32, 16)}, _CUBE),
    _monai("basic_unetplusplus", "BasicUNetPlusPlus", _ENDS | {"features": (16, 16, 24, 24, 32, 16)}, _CUBE),
    _monai("dynunet", "DynUNet", _ENDS | _DYN | {"spatial_dims": 3}),
    _monai("segresnet", "SegResNet", _ENDS | {"init_filters": 8, "blocks_down": (1, 2), "blocks_up": (1,)}),
    _monai("vnet", "VNet", _ENDS, _CUBE),
    _monai("highresnet", "HighResNet", _ENDS | {"spatial_dims": 3}),
    _monai(
        "densenet",
        "DenseNet",
        _ENDS | {"spatial_dims": 3, "init_features": 16, "growth_rate": 8, "block_config": (2, 2)},
        _CUBE,
    ),
    _monai("resnet", "resnet10", {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 3}, _CUBE),
    _monai(
        "seresnet",
        "SEResNet50",
        {"spatial_dims": 2, "in_channels": 1, "num_classes": 3, "layers": (1, 1, 1, 1)},
        tensors(normal(2, 1, 64, 64)),
    ),
    _monai("unetr", "UNETR", _ENDS | {"img_size": 32, "hidden_size": 64, "mlp_dim": 96, "num_heads": 4}, _CUBE),
    _monai(
        "swin_unetr",
        "SwinUNETR",
        _ENDS
        | {"spatial_dims": 2, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4), "window_size": 4, "feature_size": 12},
        tensors(normal(2, 1, 64, 64)),
    ),
    _monai("quicknat", "Quicknat", {"num_classes": 3, "num_filters": 16}, tensors(normal(2, 1, 32, 32))),
    _monai(
        "flexible_unet",
        "FlexibleUNet",
        {"in_channels": 1, "out_channels": 3, "backbone": "efficientnet-b0", "decoder_channels": (48, 32, 24, 16, 16)},
        tensors(normal(2, 1, 64, 64)),
    ),
    _monai(
        "ahnet",
        "AHNet",
        {"layers": (1, 1, 1, 1), "spatial_dims": 2, "in_channels": 1, "out_channels": 3, "psp_block_num": 0},
        tensors(normal(2, 1, 64, 64)),
    ),
    _monai(
        "autoencoder_kl",
        "AutoencoderKL",
        _LATENT | {"out_channels": 1, "attention_levels": (False, True)},
        tensors(normal(2, 1, 32, 32)),
    ),
    _monai("diffusion_unet", "DiffusionModelUNet", _DIFFUSION, tensors(normal(2, 1, 32, 32), integers(100, 2))),
    _monai(
        "diffusion_unet_context",
        "DiffusionModelUNet",
        _DIFFUSION | {"with_conditioning": True, "cross_attention_dim": 24},
        tensors(normal(2, 1, 32, 32), integers(100, 2), context=normal(2, 5, 24)),
    ),
    _monai(
        "vqvae",
        "VQVAE",
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "channels": (16, 24),
            "num_res_channels": (16, 24),
            "num_res_layers": 1,
            "downsample_parameters": ((2, 4, 1, 1), (2, 4, 1, 1)),
            "upsample_parameters": ((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
            "num_embeddings": 16,
            "embedding_dim": 8,
        },
        tensors(normal(2, 1, 32, 32)),
    ),
    _monai("voxelmorph", "VoxelMorph", {"spatial_dims": 2}, tensors(normal(2, 1, 32, 32), normal(2, 1, 32, 32))),
    _monai(
        "autoencoder",
        "AutoEncoder",
        _ENDS | {"spatial_dims": 2, "channels": (16, 24, 32), "strides": (2, 2, 2)},
        tensors(normal(2, 1, 32, 32)),
    ),
    _monai(
        "mednext",
        "MedNeXt",
        {
            "spatial_dims": 2,
            "init_filters": 8,
            "in_channels": 1,
            "out_channels": 3,
            "blocks_down": (1, 1),
            "blocks_up": (1, 1),
            "blocks_bottleneck": 1,
        },
        tensors(normal(2, 1, 32, 32)),
    ),
)
"""Every entry of this file."""
