"""Models of transformers that join images, sound and text."""

import torch
import transformers
from zoo.catalogue import Inputs, normal, tensors
from zoo.transformers_text import ENCODER, GEMMA, GROUPED, IDS, LAYERS, Options, Row

_VISION: Options = LAYERS | {"image_size": 32, "patch_size": 8}
_TWINS: Options = {"text_config": ENCODER, "vision_config": _VISION, "projection_dim": 32}
_text_image = tensors(input_ids=IDS, pixel_values=normal(2, 3, 32, 32))


def _with_image(places: int) -> Inputs:
    """Text after ``places`` places for one image."""
    tokens = torch.cat([torch.full((2, places), 63), torch.randint(1, 63, (2, 8))], dim=1)
    return (), {"input_ids": tokens, "pixel_values": torch.randn(2, 3, 32, 32), "use_cache": False}


def _sixteen() -> Inputs:
    return _with_image(16)


def _queries() -> Inputs:
    return _with_image(4)


def _idefics() -> Inputs:
    tokens = torch.randint(1, 63, (2, 8))
    mask = torch.ones(2, 8, 1, dtype=torch.int64)
    return (), {
        "input_ids": tokens,
        "pixel_values": torch.randn(2, 1, 3, 32, 32),
        "image_attention_mask": mask,
        "use_cache": False,
    }


def _idefics2() -> Inputs:
    args, kwargs = _with_image(4)
    return args, kwargs | {"pixel_values": torch.randn(2, 1, 3, 32, 32)}


def _kosmos2() -> Inputs:
    args, kwargs = _with_image(4)
    mask = torch.cat([torch.ones(2, 4), torch.zeros(2, 8)], dim=1)
    return args, kwargs | {"image_embeds_position_mask": mask.long()}


ROWS: tuple[Row, ...] = (
    ("align", "AlignTextModel", ENCODER, tensors(input_ids=IDS)),
    (
        "altclip",
        "AltCLIPModel",
        {"text_config": ENCODER | {"project_dim": 32}, "vision_config": _VISION} | {"projection_dim": 32},
        _text_image,
    ),
    (
        "blip_2",
        "Blip2Model",
        {
            "vision_config": _VISION,
            "qformer_config": ENCODER | {"encoder_hidden_size": 64, "cross_attention_frequency": 1},
            "text_config": transformers.OPTConfig(
                vocab_size=64,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                ffn_dim=96,
                word_embed_proj_dim=64,
            ),
            "num_query_tokens": 4,
            "image_token_index": 63,
            "image_token_id": 63,
        },
        _queries,
    ),
    (
        "bridgetower",
        "BridgeTowerModel",
        LAYERS
        | {
            "text_config": ENCODER,
            "vision_config": _VISION | {"num_hidden_layers": 2},
        },
        _text_image,
    ),
    (
        "clap_audio",
        "ClapAudioModel",
        {
            "num_mel_bins": 16,
            "spec_size": 64,
            "patch_size": 4,
            "depths": [2, 2],
            "num_attention_heads": [2, 4],
            "patch_embeds_hidden_size": 32,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "window_size": 4,
            "projection_dim": 32,
        },
        tensors(input_features=normal(2, 1, 256, 16)),
    ),
    ("flava_image", "FlavaImageModel", _VISION, tensors(pixel_values=normal(2, 3, 32, 32))),
    ("git", "GitForCausalLM", ENCODER | {"vision_config": _VISION, "use_cache": False}, _text_image),
    (
        "groupvit",
        "GroupViTVisionModel",
        {
            "image_size": 32,
            "patch_size": 4,
            "hidden_size": 64,
            "intermediate_size": 96,
            "depths": [1, 1],
            "num_group_tokens": [8, 4],
            "num_output_groups": [8, 4],
            "num_attention_heads": 4,
            "assign_mlp_ratio": [0.5, 4],
        },
        tensors(pixel_values=normal(2, 3, 32, 32)),
    ),
    (
        "idefics",
        "IdeficsForVisionText2Text",
        GROUPED
        | {
            "cross_layer_interval": 1,
            "additional_vocab_size": 0,
            "alpha_initializer": "ones",
            "vision_config": {
                "embed_dim": 64,
                "image_size": 32,
                "patch_size": 8,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
            },
        },
        _idefics,
    ),
    (
        "idefics2",
        "Idefics2Model",
        {
            "vision_config": _VISION,
            "perceiver_config": {
                "hidden_size": 64,
                "resampler_n_latents": 4,
                "resampler_depth": 1,
                "resampler_n_heads": 4,
                "resampler_head_dim": 16,
                "num_key_value_heads": 2,
            },
            "text_config": transformers.MistralConfig(**GROUPED),
            "image_token_id": 63,
        },
        _idefics2,
    ),
    (
        "kosmos_2",
        "Kosmos2ForConditionalGeneration",
        {
            "text_config": {"vocab_size": 64, "embed_dim": 64, "layers": 2, "ffn_dim": 96, "attention_heads": 4}
            | {"max_position_embeddings": 64, "use_cache": False},
            "vision_config": _VISION,
            "latent_query_num": 4,
        },
        _kosmos2,
    ),
    (
        "layoutlm",
        "LayoutLMModel",
        ENCODER | {"max_2d_position_embeddings": 32},
        tensors(input_ids=IDS, bbox=lambda: torch.randint(1, 16, (2, 12, 4)).cumsum(2) // 4),
    ),
    ("metaclip_2", "MetaClip2Model", _TWINS, _text_image),
    (
        "paligemma",
        "PaliGemmaForConditionalGeneration",
        {
            "text_config": transformers.GemmaConfig(**GEMMA),
            "vision_config": transformers.SiglipVisionConfig(**_VISION),
            "projection_dim": 64,
            "image_token_index": 63,
            "image_token_id": 63,
        },
        _sixteen,
    ),
    ("siglip2_text", "Siglip2TextModel", ENCODER, tensors(input_ids=IDS)),
    ("vilt", "ViltModel", ENCODER | {"image_size": 32, "patch_size": 8}, _text_image),
    ("xclip_text", "XCLIPTextModel", ENCODER, tensors(input_ids=IDS)),
)
"""Every row of this file."""
