"""Vision transformers of vit-pytorch, one a paper."""

from zoo.catalogue import normal, tensors
from zoo.other_packages import Options, rows

_IMAGE = tensors(normal(2, 3, 32, 32))
_LARGE = tensors(normal(2, 3, 64, 64))
_HEADS: Options = {"num_classes": 10, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 96}
_VIT: Options = _HEADS | {"image_size": 32, "patch_size": 8, "dim_head": 16}
_CROSS: Options = {
    "image_size": 32,
    "num_classes": 10,
    "sm_dim": 32,
    "lg_dim": 64,
    "sm_patch_size": 4,
    "sm_enc_heads": 2,
    "sm_enc_mlp_dim": 64,
    "sm_enc_dim_head": 16,
    "lg_patch_size": 8,
    "lg_enc_depth": 2,
    "lg_enc_heads": 4,
    "lg_enc_mlp_dim": 96,
    "lg_enc_dim_head": 16,
    "cross_attn_heads": 2,
    "cross_attn_dim_head": 16,
    "depth": 2,
}
_CCT: Options = {
    "embedding_dim": 64,
    "n_conv_layers": 2,
    "kernel_size": 3,
    "stride": 1,
    "padding": 1,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_ratio": 2,
    "num_classes": 10,
    "positional_embedding": "learnable",
}
_CVT: Options = {f"s{stage}_{key}": value for stage in (1, 2, 3) for key, value in (("depth", 1), ("mlp_mult", 2))}
_TWINS: Options = {
    f"s{stage}_{key}": value
    for stage in (1, 2, 3, 4)
    for key, value in (("emb_dim", 16 * stage), ("depth", 1), ("local_patch_size", 2), ("global_k", 2))
}
_VIDEO: Options = {"image_size": 16, "frames": 4, "frame_patch_size": 2}
_STAGES: Options = {"num_classes": 10, "dim": (16, 32, 48, 64), "depth": (1, 1, 1, 1), "heads": (1, 2, 2, 4)}

ENTRIES = rows(
    "vit_pytorch",
    ("vit", "vit_pytorch.vit:ViT", _VIT, _IMAGE),
    ("ats_vit", "vit_pytorch.ats_vit:ViT", _VIT | {"max_tokens_per_depth": (12, 8)}, _IMAGE),
    ("cait", "vit_pytorch.cait:CaiT", _VIT | {"cls_depth": 1}, _IMAGE),
    ("cct", "vit_pytorch.cct:CCT", _CCT | {"img_size": 32}, _IMAGE),
    ("cross_vit", "vit_pytorch.cross_vit:CrossViT", _CROSS, _IMAGE),
    (
        "crossformer",
        "vit_pytorch.crossformer:CrossFormer",
        {"dim": (32, 64, 64, 64), "depth": (1, 1, 1, 1), "local_window_size": 2, "num_classes": 10},
        tensors(normal(2, 3, 256, 256)),
    ),
    (
        "cvt",
        "vit_pytorch.cvt:CvT",
        _CVT | {"s1_emb_dim": 32, "s2_emb_dim": 48, "s3_emb_dim": 64, "num_classes": 10},
        _LARGE,
    ),
    ("deepvit", "vit_pytorch.deepvit:DeepViT", _VIT, _IMAGE),
    ("jumbo_vit", "vit_pytorch.jumbo_vit:JumboViT", _VIT | {"jumbo_cls_k": 2}, _IMAGE),
    ("learnable_memory_vit", "vit_pytorch.learnable_memory_vit:ViT", _VIT, _IMAGE),
    (
        "levit",
        "vit_pytorch.levit:LeViT",
        {
            "image_size": 64,
            "num_classes": 10,
            "dim": (32, 48, 64),
            "depth": 1,
            "heads": (2, 2, 4),
            "mlp_mult": 2,
            "dim_key": 8,
            "dim_value": 16,
        },
        _LARGE,
    ),
    (
        "look_vit",
        "vit_pytorch.look_vit:LookViT",
        {
            "dim": 64,
            "image_size": 32,
            "num_classes": 10,
            "depth": 2,
            "patch_size": 8,
            "highres_patch_size": 4,
            "heads": 4,
            "dim_head": 16,
            "cross_attn_heads": 4,
            "cross_attn_dim_head": 16,
        },
        _IMAGE,
    ),
    (
        "max_vit",
        "vit_pytorch.max_vit:MaxViT",
        {"num_classes": 10, "dim": 32, "depth": (1, 1), "dim_head": 16, "dim_conv_stem": 16, "window_size": 4},
        tensors(normal(2, 3, 64, 64)),
    ),
    (
        "mobile_vit",
        "vit_pytorch.mobile_vit:MobileViT",
        {
            "image_size": (64, 64),
            "dims": [32, 40, 48],
            "channels": [8, 8, 16, 16, 24, 24, 32, 32, 40, 40, 48],
            "num_classes": 10,
            "depths": (1, 1, 1),
        },
        _LARGE,
    ),
    (
        "nest",
        "vit_pytorch.nest:NesT",
        {
            "image_size": 32,
            "patch_size": 4,
            "num_classes": 10,
            "dim": 32,
            "heads": 2,
            "num_hierarchies": 2,
            "block_repeats": (1, 1),
            "dim_head": 16,
        },
        _IMAGE,
    ),
    ("normalized_vit", "vit_pytorch.normalized_vit:nViT", _VIT, _IMAGE),
    ("parallel_vit", "vit_pytorch.parallel_vit:ViT", _VIT, _IMAGE),
    ("pit", "vit_pytorch.pit:PiT", _VIT | {"depth": (1, 1)}, _IMAGE),
    (
        "regionvit",
        "vit_pytorch.regionvit:RegionViT",
        {"dim": (32, 48, 64, 64), "depth": (1, 1, 1, 1), "window_size": 2, "num_classes": 10},
        _LARGE,
    ),
    ("rvt", "vit_pytorch.rvt:RvT", _VIT, _IMAGE),
    (
        "scalable_vit",
        "vit_pytorch.scalable_vit:ScalableViT",
        {
            "num_classes": 10,
            "dim": 32,
            "heads": (2, 2),
            "depth": (1, 1),
            "reduction_factor": (4, 2),
            "window_size": (4, 4),
        },
        _LARGE,
    ),
    (
        "sep_vit",
        "vit_pytorch.sep_vit:SepViT",
        {"num_classes": 10, "dim": 32, "depth": (1, 1), "heads": (2, 4), "dim_head": 16},
        tensors(normal(2, 3, 56, 56)),
    ),
    ("simple_uvit", "vit_pytorch.simple_uvit:SimpleUViT", _VIT | {"depth": 4}, _IMAGE),
    ("simple_vit", "vit_pytorch.simple_vit:SimpleViT", _VIT, _IMAGE),
    (
        "simple_vit_1d",
        "vit_pytorch.simple_vit_1d:SimpleViT",
        _HEADS | {"seq_len": 64, "patch_size": 8, "dim_head": 16},
        tensors(normal(2, 3, 64)),
    ),
    (
        "simple_vit_3d",
        "vit_pytorch.simple_vit_3d:SimpleViT",
        _HEADS | _VIDEO | {"image_patch_size": 8, "dim_head": 16},
        tensors(normal(2, 3, 4, 16, 16)),
    ),
    ("simple_vit_with_fft", "vit_pytorch.simple_vit_with_fft:SimpleViT", _VIT | {"freq_patch_size": 8}, _IMAGE),
    (
        "hyper_connections",
        "vit_pytorch.simple_vit_with_hyper_connections:SimpleViT",
        _VIT | {"num_residual_streams": 2},
        _IMAGE,
    ),
    ("register_tokens", "vit_pytorch.simple_vit_with_register_tokens:SimpleViT", _VIT, _IMAGE),
    ("value_residual", "vit_pytorch.simple_vit_with_value_residual:SimpleViT", _VIT, _IMAGE),
    (
        "t2t",
        "vit_pytorch.t2t:T2TViT",
        _HEADS | {"image_size": 64, "dim_head": 16, "t2t_layers": ((7, 4), (3, 2))},
        _LARGE,
    ),
    ("twins_svt", "vit_pytorch.twins_svt:TwinsSVT", _TWINS | {"num_classes": 10}, _LARGE),
    ("small_dataset", "vit_pytorch.vit_for_small_dataset:ViT", _VIT, _IMAGE),
    (
        "nd_rotary",
        "vit_pytorch.vit_nd_rotary:ViTND",
        _HEADS | {"ndim": 2, "input_shape": (32, 32), "patch_size": 8, "dim_head": 16},
        _IMAGE,
    ),
    ("patch_merger", "vit_pytorch.vit_with_patch_merger:ViT", _VIT | {"patch_merge_num_tokens": 4}, _IMAGE),
    (
        "vivit",
        "vit_pytorch.vivit:ViViT",
        _VIDEO
        | {
            "image_patch_size": 8,
            "num_classes": 10,
            "dim": 64,
            "spatial_depth": 1,
            "temporal_depth": 1,
            "heads": 4,
            "mlp_dim": 96,
            "dim_head": 16,
        },
        tensors(normal(2, 3, 4, 16, 16)),
    ),
    ("xcit", "vit_pytorch.xcit:XCiT", _VIT | {"cls_depth": 1}, _IMAGE),
)
"""Every entry of this file."""
