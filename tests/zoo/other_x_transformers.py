"""Transformers of x-transformers: one entry for each way of attending, placing, normalising and feeding forward."""

import importlib
from typing import Any

from torch import nn
from zoo.catalogue import integers, normal, tensors
from zoo.other_packages import Options, Row, rows

_TOKENS = tensors(integers(64, 2, 16))


def _x_transformer(stack: str, wrapper: Options | None = None, **options: Any) -> nn.Module:
    library = importlib.import_module("x_transformers")
    layers = getattr(library, stack)(dim=64, depth=2, heads=4, attn_dim_head=16, ff_mult=2, **options)
    chosen = {"num_tokens": 64, "max_seq_len": 32, **(wrapper or {})}
    made: nn.Module = library.TransformerWrapper(attn_layers=layers, **chosen)
    return made


def _continuous(**options: Any) -> nn.Module:
    library = importlib.import_module("x_transformers")
    layers = library.Encoder(dim=64, depth=2, heads=4, attn_dim_head=16, **options)
    made: nn.Module = library.ContinuousTransformerWrapper(dim_in=16, dim_out=8, max_seq_len=32, attn_layers=layers)
    return made


def _image_encoder() -> nn.Module:
    library = importlib.import_module("x_transformers")
    layers = library.Encoder(dim=64, depth=2, heads=4, attn_dim_head=16)
    made: nn.Module = library.ViTransformerWrapper(image_size=32, patch_size=8, num_classes=10, attn_layers=layers)
    return made


def _x(name: str, stack: str, wrapper: Options | None = None, **options: Any) -> Row:
    return name, _x_transformer, {"stack": stack, "wrapper": wrapper, **options}, _TOKENS


ENTRIES = rows(
    "x_transformers",
    _x("gpt", "Decoder"),
    _x("bert", "Encoder"),
    _x("llama", "Decoder", rotary_pos_emb=True, use_rmsnorm=True, ff_glu=True, ff_swish=True, ff_no_bias=True),
    _x("palm", "Decoder", rotary_pos_emb=True, attn_one_kv_head=True, ff_glu=True, shift_tokens=1),
    _x("grouped", "Decoder", attn_kv_heads=2, rotary_xpos=True),
    _x("alibi", "Decoder", {"use_abs_pos_emb": False}, alibi_pos_bias=True, alibi_num_heads=2),
    _x("t5_bias", "Encoder", {"use_abs_pos_emb": False}, rel_pos_bias=True, use_simple_rmsnorm=True),
    _x("dynamic_bias", "Encoder", {"use_abs_pos_emb": False}, dynamic_pos_bias=True),
    _x("talking_heads", "Decoder", attn_pre_talking_heads=True, attn_post_talking_heads=True),
    _x("qk_norm", "Decoder", attn_qk_norm=True, attn_qk_norm_dim_scale=True),
    _x("gated_values", "Decoder", attn_gate_values=True, attn_head_scale=True, attn_num_mem_kv=4),
    _x("on_attention", "Decoder", attn_on_attn=True, sandwich_norm=True),
    _x("macaron", "Decoder", macaron=True),
    _x("gated_residual", "Decoder", gate_residual=True, residual_attn=True),
    _x("scale_residual", "Decoder", scale_residual=True, use_scalenorm=True, ff_relu_squared=True),
    _x("sparse_topk", "Decoder", attn_sparse_topk=4),
    _x("memory_tokens", "Decoder", {"num_memory_tokens": 4}, softclamp_output=True),
    _x("flash", "Decoder", attn_flash=True, attn_kv_heads=2),
    ("continuous", _continuous, {}, tensors(normal(2, 12, 16))),
    ("image", _image_encoder, {}, tensors(normal(2, 3, 32, 32))),
    (
        "encoder_decoder",
        "x_transformers:XTransformer",
        {"dim": 64}
        | {
            f"{side}_{key}": value
            for side in ("enc", "dec")
            for key, value in (
                ("num_tokens", 64),
                ("depth", 1),
                ("heads", 4),
                ("max_seq_len", 32),
                ("attn_dim_head", 16),
            )
        },
        tensors(integers(64, 2, 12), integers(64, 2, 9)),
    ),
)
"""Every entry of this file."""
