"""Vision models of transformers, and models of images with text."""

import torch
import transformers
from zoo.catalogue import Inputs, normal, tensors
from zoo.transformers_text import ENCODER, GROUPED, IDS, LAYERS, PAIR, Options, Row

_VISION: Options = LAYERS | {"image_size": 32, "patch_size": 8}
_STAGES: Options = {"hidden_sizes": [24, 32, 48], "depths": [2, 2, 2], "num_stages": 3}
_SWIN: Options = {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_SEGFORMER: Options = {
    "num_encoder_blocks": 2,
    "depths": [2, 2],
    "hidden_sizes": [32, 64],
    "num_attention_heads": [2, 4],
    "sr_ratios": [2, 1],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 48,
}
_TWINS: Options = {"text_config": ENCODER, "vision_config": _VISION, "projection_dim": 32}
_BACKBONE: Options = {
    "embedding_size": 16,
    "hidden_sizes": [24, 32],
    "depths": [2, 2],
    "layer_type": "basic",
    "out_features": ["stage2"],
}
_image = tensors(pixel_values=normal(2, 3, 32, 32))
_wide_image = tensors(pixel_values=normal(2, 3, 64, 64))
_text_image = tensors(input_ids=IDS, pixel_values=normal(2, 3, 32, 32))


def _llava() -> Inputs:
    tokens = torch.cat([torch.full((2, 16), 63), torch.randint(1, 63, (2, 8))], dim=1)
    return (), {"input_ids": tokens, "pixel_values": torch.randn(2, 3, 32, 32), "use_cache": False}


ROWS: tuple[Row, ...] = (
    ("beit", "BeitForImageClassification", _VISION | {"use_relative_position_bias": True}, _image),
    ("blip", "BlipForImageTextRetrieval", _TWINS, _text_image),
    ("clip", "CLIPModel", _TWINS, _text_image),
    (
        "clipseg",
        "CLIPSegForImageSegmentation",
        _TWINS
        | {
            "extract_layers": [0, 1],
            "reduce_dim": 32,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 48,
            "vision_config": _VISION,
        },
        _text_image,
    ),
    (
        "llava",
        "LlavaForConditionalGeneration",
        {
            "text_config": transformers.LlamaConfig(**GROUPED),
            "vision_config": transformers.CLIPVisionConfig(**_VISION),
            "image_token_index": 63,
            "image_token_id": 63,
        },
        _llava,
    ),
    ("owlvit", "OwlViTForObjectDetection", _TWINS | {"projection_dim": 64}, _text_image),
    ("convnext", "ConvNextForImageClassification", _STAGES, _wide_image),
    ("convnextv2", "ConvNextV2ForImageClassification", _STAGES, _wide_image),
    (
        "cvt",
        "CvtForImageClassification",
        {
            "embed_dim": [16, 32],
            "depth": [2, 2],
            "num_heads": [2, 4],
            "patch_sizes": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [2, 1],
            "kernel_qkv": [3, 3],
            "padding_kv": [1, 1],
            "stride_kv": [2, 2],
            "padding_q": [1, 1],
            "stride_q": [1, 1],
            "mlp_ratio": [2.0, 2.0],
            "attention_drop_rate": [0.0, 0.0],
            "drop_rate": [0.0, 0.0],
            "drop_path_rate": [0.0, 0.0],
            "qkv_bias": [True, True],
            "cls_token": [False, True],
            "qkv_projection_method": ["dw_bn", "dw_bn"],
        },
        _wide_image,
    ),
    ("deit", "DeiTForImageClassificationWithTeacher", _VISION, _image),
    (
        "detr",
        "DetrForObjectDetection",
        PAIR
        | {
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
            "num_queries": 6,
            "backbone_config": transformers.ResNetConfig(**_BACKBONE),
        },
        _wide_image,
    ),
    ("dinov2", "Dinov2ForImageClassification", _VISION | {"use_swiglu_ffn": True}, _image),
    (
        "dpt",
        "DPTForDepthEstimation",
        _VISION
        | {
            "backbone_out_indices": [0, 1],
            "neck_hidden_sizes": [16, 24],
            "reassemble_factors": [2, 1],
            "fusion_hidden_size": 32,
            "readout_type": "project",
            "is_hybrid": False,
            "backbone_config": None,
        },
        _image,
    ),
    (
        "hiera",
        "HieraForImageClassification",
        {
            "image_size": [32, 32],
            "embed_dim": 32,
            "num_heads": [2, 4],
            "depths": [2, 2],
            "masked_unit_size": [4, 4],
            "masked_unit_attention": [True, False],
            "query_stride": [2, 2],
            "num_query_pool": 1,
        },
        _image,
    ),
    (
        "levit",
        "LevitForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [2, 2, 2],
            "key_dim": [8, 8, 8],
        },
        _wide_image,
    ),
    (
        "mobilevit",
        "MobileViTForImageClassification",
        {"image_size": 128, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96]},
        tensors(pixel_values=normal(2, 3, 128, 128)),
    ),
    (
        "poolformer",
        "PoolFormerForImageClassification",
        {
            "hidden_sizes": [24, 32],
            "depths": [2, 2],
            "num_encoder_blocks": 2,
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "padding": [2, 1],
        },
        _wide_image,
    ),
    (
        "pvt_v2",
        "PvtV2ForImageClassification",
        {
            "image_size": 64,
            "num_encoder_blocks": 2,
            "hidden_sizes": [32, 64],
            "depths": [2, 2],
            "num_attention_heads": [2, 4],
            "sr_ratios": [2, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
        },
        _wide_image,
    ),
    (
        "sam",
        "SamVisionModel",
        _VISION | {"output_channels": 32, "mlp_dim": 96, "window_size": 2, "global_attn_indexes": [1]},
        _image,
    ),
    ("segformer", "SegformerForSemanticSegmentation", _SEGFORMER, _wide_image),
    ("siglip", "SiglipModel", _TWINS, _text_image),
    ("swin", "SwinForImageClassification", _SWIN, _wide_image),
    (
        "swin2sr",
        "Swin2SRForImageSuperResolution",
        {
            "image_size": 16,
            "embed_dim": 32,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
            "upsampler": "pixelshuffle",
        },
        tensors(pixel_values=normal(2, 3, 16, 16)),
    ),
    ("swinv2", "Swinv2ForImageClassification", _SWIN, _wide_image),
    (
        "timesformer",
        "TimesformerForVideoClassification",
        _VISION | {"num_frames": 4},
        tensors(pixel_values=normal(2, 4, 3, 32, 32)),
    ),
    (
        "videomae",
        "VideoMAEForVideoClassification",
        _VISION | {"num_frames": 4},
        tensors(pixel_values=normal(2, 4, 3, 32, 32)),
    ),
    ("vit", "ViTForImageClassification", _VISION, _image),
    ("yolos", "YolosForObjectDetection", _VISION | {"image_size": [32, 32], "num_detection_tokens": 6}, _image),
)
"""Every row of this file."""
