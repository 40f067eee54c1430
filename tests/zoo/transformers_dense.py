"""Models of transformers that detect, segment, or tell depth and pose."""

import transformers
from zoo.catalogue import Inputs, integers, normal, tensors
from zoo.transformers_text import ENCODER, PAIR, Options, Row

_VIT: Options = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "image_size": 32, "patch_size": 8}
_STAGES: Options = {
    "image_size": 64,
    "embed_dim": 32,
    "depths": [1, 1, 1, 1],
    "num_heads": [2, 2, 4, 4],
    "window_size": 4,
}
_NECK: Options = {
    "reassemble_factors": [2, 1],
    "neck_hidden_sizes": [16, 24],
    "fusion_hidden_size": 32,
}
_DECODER: Options = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_queries": 8,
}
_RT: Options = _DECODER | {
    "encoder_hidden_dim": 64,
    "encoder_in_channels": [32, 48, 64],
    "decoder_in_channels": [64, 64, 64],
    "num_denoising": 0,
}
_RESNET: Options = {
    "embedding_size": 16,
    "hidden_sizes": [24, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
_HGNET: Options = {
    "stem_channels": [3, 16, 16],
    "stage_in_channels": [16, 24, 32, 48],
    "stage_mid_channels": [16, 16, 16, 16],
    "stage_out_channels": [24, 32, 48, 64],
    "hidden_sizes": [24, 32, 48, 64],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}
_MASKS: Options = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 64,
    "encoder_feedforward_dim": 96,
    "dim_feedforward": 96,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "num_attention_heads": 4,
    "num_queries": 8,
}
_image = tensors(pixel_values=normal(2, 3, 32, 32))
_wide_image = tensors(pixel_values=normal(2, 3, 64, 64))


def _swin() -> transformers.PreTrainedConfig:
    return transformers.SwinConfig(**_STAGES, out_features=["stage1", "stage2", "stage3", "stage4"])


def _dinov2(**options: object) -> transformers.PreTrainedConfig:
    return transformers.Dinov2Config(**_VIT, out_indices=[1, 2], **options)


def _described() -> Inputs:
    return tensors(pixel_values=normal(2, 3, 64, 64), input_ids=integers(64, 2, 8))()


ROWS: tuple[Row, ...] = (
    (
        "conditional_detr",
        "ConditionalDetrForObjectDetection",
        PAIR
        | {"num_queries": 6, "backbone_config": transformers.ResNetConfig(**_RESNET | {"out_features": ["stage4"]})}
        | {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None},
        _wide_image,
    ),
    (
        "d_fine",
        "DFineForObjectDetection",
        _RT | {"backbone_config": transformers.HGNetV2Config(**_HGNET)},
        _wide_image,
    ),
    (
        "deformable_detr",
        "DeformableDetrForObjectDetection",
        _DECODER
        | {
            "num_feature_levels": 3,
            "backbone_config": transformers.ResNetConfig(**_RESNET),
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
            "disable_custom_kernels": True,
        },
        _wide_image,
    ),
    (
        "depth_anything",
        "DepthAnythingForDepthEstimation",
        _NECK
        | {"backbone_config": _dinov2(reshape_hidden_states=False), "patch_size": 8, "reassemble_hidden_size": 64},
        _image,
    ),
    (
        "glpn",
        "GLPNForDepthEstimation",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "hidden_sizes": [32, 64],
            "num_attention_heads": [2, 4],
            "sr_ratios": [2, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 32,
        },
        _wide_image,
    ),
    (
        "grounding_dino",
        "GroundingDinoForObjectDetection",
        _DECODER
        | {
            "backbone_config": transformers.SwinConfig(**_STAGES, out_features=["stage2", "stage3", "stage4"]),
            "text_config": ENCODER | {"model_type": "bert"},
            "disable_custom_kernels": True,
            "max_text_len": 8,
        },
        _described,
    ),
    ("mask2former", "Mask2FormerForUniversalSegmentation", _MASKS | {"backbone_config": _swin()}, _wide_image),
    (
        "maskformer",
        "MaskFormerForInstanceSegmentation",
        {
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
            "backbone_config": _swin(),
            "decoder_config": transformers.DetrConfig(
                **PAIR,
                num_queries=8,
                use_timm_backbone=False,
                backbone=None,
                backbone_config=transformers.ResNetConfig(),
            ),
        },
        _wide_image,
    ),
    (
        "rt_detr",
        "RTDetrForObjectDetection",
        _RT | {"backbone_config": transformers.RTDetrResNetConfig(**_RESNET | {"layer_type": "bottleneck"})},
        _wide_image,
    ),
    (
        "sam2_vision",
        "Sam2VisionModel",
        {
            "backbone_config": transformers.Sam2HieraDetConfig(
                hidden_size=16,
                image_size=[64, 64],
                blocks_per_stage=[1, 2, 1, 1],
                embed_dim_per_stage=[16, 32, 64, 128],
                num_attention_heads_per_stage=[1, 2, 4, 8],
                window_size_per_stage=[4, 4, 2, 2],
                global_attention_blocks=[2],
            ),
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        _wide_image,
    ),
    (
        "upernet",
        "UperNetForSemanticSegmentation",
        {
            "hidden_size": 32,
            "auxiliary_channels": 32,
            "backbone_config": transformers.ConvNextConfig(
                hidden_sizes=[24, 32, 48, 64],
                depths=[1, 1, 1, 1],
                out_features=["stage1", "stage2", "stage3", "stage4"],
            ),
        },
        _wide_image,
    ),
    (
        "vitmatte",
        "VitMatteForImageMatting",
        {
            "backbone_config": transformers.VitDetConfig(
                **_VIT | {"image_size": 64, "patch_size": 16}, num_channels=4, out_features=["stage2"]
            ),
            "hidden_size": 64,
            "fusion_hidden_sizes": [48, 32, 24, 16],
            "convstream_hidden_sizes": [16, 24, 32],
        },
        tensors(pixel_values=normal(2, 4, 64, 64)),
    ),
    (
        "vitpose",
        "VitPoseForPoseEstimation",
        {
            "backbone_config": transformers.VitPoseBackboneConfig(
                **_VIT | {"image_size": [32, 32], "patch_size": [8, 8]}, out_features=["stage2"]
            )
        },
        _image,
    ),
    (
        "zoedepth",
        "ZoeDepthForDepthEstimation",
        {
            "backbone_config": transformers.BeitConfig(
                **_VIT | {"num_hidden_layers": 4},
                intermediate_size=96,
                out_features=["stage1", "stage2", "stage3", "stage4"],
                reshape_hidden_states=False,
            ),
            "reassemble_factors": [4, 2, 1, 0.5],
            "neck_hidden_sizes": [16, 24, 32, 48],
            "fusion_hidden_size": 32,
            "bottleneck_features": 32,
            "bin_embedding_dim": 24,
            "num_attractors": [8, 4, 2, 1],
            "num_relative_features": 16,
        },
        _image,
    ),
)
"""Every row of this file."""
