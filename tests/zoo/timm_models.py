"""Architectures of timm, one or two a family, shrunk through their own options."""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from timm.layers.mlp import GatedMlp, GluMlp
from timm.models import convmixer, focalnet, gcvit, metaformer, mlp_mixer, mvitv2, nest, resnetv2, vgg, vitamin, volo
from torch import nn
from zoo.catalogue import Entry, entry, normal, tensors

Options = dict[str, Any]

_VIT: Options = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
_BEIT: Options = _VIT | {"init_values": 0.5, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}
_MIXER: Options = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "num_blocks": 2}
_SWIN: Options = {"img_size": 64, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
_COAT: Options = {"img_size": 64, "embed_dims": (64, 64, 64, 64), "serial_depths": (2, 2, 2, 2)}
_CONVNEXT: Options = {"depths": (2, 2, 2, 2), "dims": (24, 32, 48, 64)}
_FORMER: Options = {"depths": (2, 2, 2, 2), "embed_dims": (32, 32, 64, 64)}
_META: Options = {"depths": (2, 2, 2, 2), "dims": (32, 32, 64, 64)}
_RESNET: Options = {"layers": (1, 2, 1, 1), "channels": (32, 32, 64, 64)}
_HEADS: Options = {"num_heads": (2, 2, 4, 4)}
_BYOB: Options = {"stem_chs": 16, "width_factor": 0.25}
_HALO: Options = _BYOB | {"self_attn_kwargs": {"block_size": 4, "halo_size": 1}}
_HIERA: Options = {"stages": (2, 2, 2), "q_pool": 1, "mask_unit_size": (2, 2), "mask_unit_attn": (True, True, False)}
_CROSS: Options = {"img_size": 48, "patch_size": (6, 8), "img_scale": (1.0, 2 / 3), "depth": ((1, 2, 1), (1, 2, 1))}
_RDNET: Options = {"block_type": ("Block", "BlockESE"), "is_downsample_block": (None, True), "ls_init_value": 0.5}
_TINY_VIT: Options = {
    "embed_dims": (32, 32, 64),
    "depths": (2, 2, 2),
    "num_heads": (2, 2, 4),
    "window_sizes": (4, 4, 4),
}
_TNT: Options = {"img_size": 64, "embed_dim": 64, "inner_dim": 16, "depth": 2}
_PIT: Options = {"img_size": 64, "base_dims": (16, 16), "depth": (2, 2), "heads": (2, 4)}
_LEVIT: Options = {"img_size": 64, "embed_dim": (32, 64), "num_heads": (2, 4), "depth": (2, 2)}
_SEQUENCER: Options = {"img_size": 32, "patch_sizes": (4, 2), "layers": (2, 2), "hidden_sizes": (16, 24)}
_VITAMIN: Options = {
    "img_size": 64,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 4,
    "embed_cfg": vitamin.VitCfg(
        embed_dim=(16, 32, 64),
        depths=(1, 1, 1),
        stem_width=16,
        conv_cfg=vitamin.VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
        head_type="1d",
    ),
}
_SAM: Options = {"neck_chans": 32, "window_size": 2, "global_attn_indexes": (1,)}

NAMED: tuple[tuple[str, Options, int], ...] = (
    ("beit_base_patch16_224", _VIT | {"init_values": 0.5}, 32),
    ("beitv2_base_patch16_224", _BEIT, 32),
    ("botnet26t_256", _BYOB | {"img_size": 64}, 64),
    ("cait_xxs24_224", _VIT | {"init_values": 0.5}, 32),
    ("coat_lite_tiny", _COAT, 64),
    ("coat_tiny", _COAT | {"parallel_depth": 2}, 64),
    ("test_coatnet", {}, 160),
    ("convit_tiny", _VIT | {"embed_dim": 16, "local_up_to_layer": 1}, 32),
    ("convnext_atto", _CONVNEXT | {"ls_init_value": 0.5}, 64),
    ("convnextv2_atto", _CONVNEXT, 64),
    ("crossvit_9_240", _CROSS | {"embed_dim": (32, 64), "num_heads": (2, 4)}, 48),
    ("cs3darknet_s", {}, 64),
    ("davit_tiny", {"depths": (2, 2), "embed_dims": (32, 64), "num_heads": (2, 4), "window_size": 4}, 64),
    ("deit_tiny_distilled_patch16_224", _VIT, 32),
    ("deit3_small_patch16_224", _VIT | {"init_values": 0.5}, 32),
    ("densenetblur121d", {"growth_rate": 8, "block_config": (3, 3, 3)}, 64),
    ("dla46_c", {}, 64),
    ("dpn48b", {}, 64),
    ("edgenext_xx_small", _CONVNEXT | {"heads": (4, 4, 4, 4)}, 64),
    ("efficientformer_l1", {"depths": (2, 2, 2, 2), "embed_dims": (24, 32, 48, 64), "num_vit": 1}, 224),
    ("efficientformerv2_s0", {"img_size": 64, "depths": (2, 2, 2, 2), "embed_dims": (24, 32, 48, 64)}, 64),
    ("efficientnet_lite0", {}, 64),
    ("efficientvim_m1", {"embed_dim": (32, 48, 64)}, 128),
    ("efficientvit_b0", {}, 64),
    ("efficientvit_m0", {"img_size": 128}, 128),
    ("ese_vovnet19b_slim_dw", {}, 64),
    ("eva02_tiny_patch14_224", _VIT, 32),
    ("eva02_base_patch16_clip_224", _VIT, 32),
    ("vit_small_patch16_dinov3", _VIT | {"init_values": 0.5}, 32),
    ("fasternet_t0", {"embed_dim": 32, "depths": (2, 2, 2), "feature_dim": 128}, 64),
    ("fastvit_t8", {"layers": (2, 2, 2, 2), "embed_dims": (32, 32, 64, 64)}, 64),
    ("fastvit_sa12", {"layers": (2, 2, 2, 2), "embed_dims": (32, 32, 64, 64)}, 64),
    ("fbnetv3_b", {}, 64),
    ("gernet_s", _BYOB | {"width_factor": 0.5}, 64),
    ("gcresnext26ts", _BYOB | {"width_factor": 0.5}, 64),
    ("ghostnet_050", {}, 64),
    ("ghostnetv2_100", {}, 64),
    ("halonet26t", _HALO, 128),
    ("hgnetv2_b0", {}, 64),
    ("hieradet_small", {"embed_dim": 32, "num_heads": 2, "stages": (1, 2, 1, 1)}, 64),
    ("hiera_tiny_224", _HIERA | {"img_size": 64, "embed_dim": 32, "num_heads": 2}, 64),
    ("hrnet_w18_small", {}, 64),
    ("inception_next_atto", _CONVNEXT | {"ls_init_value": 0.5}, 64),
    ("lambda_resnet26t", _BYOB | {"img_size": 64}, 64),
    ("lcnet_050", {}, 64),
    ("legacy_seresnet18", {}, 64),
    ("levit_128s", _LEVIT, 64),
    ("mambaout_femto", _CONVNEXT, 64),
    ("test_maxvit", {}, 160),
    ("mobilenetv4_conv_small_050", {}, 64),
    ("mobilenetv4_hybrid_medium", {}, 64),
    ("mobilenetv5_base", {"channel_multiplier": 0.125, "num_features": 64}, 64),
    ("mobilevit_xxs", {}, 64),
    ("mobilevitv2_050", {}, 64),
    ("nasnetalarge", {"stem_size": 16, "num_features": 384}, 64),
    ("naflexvit_base_patch16_gap", {"embed_dim": 64, "depth": 2, "num_heads": 4}, 64),
    ("test_nfnet", {}, 64),
    ("pit_ti_224", _PIT, 64),
    ("pvt_v2_b0", _FORMER | _HEADS, 64),
    ("rdnet_tiny", _RDNET | {"num_init_features": 24, "growth_rates": (16, 24), "num_blocks_list": (2, 2)}, 64),
    ("regnetz_005", {}, 64),
    ("repghostnet_050", {}, 64),
    ("repvgg_a0", _BYOB, 64),
    ("repvit_m1", {"embed_dim": (24, 48), "depth": (2, 2)}, 64),
    ("res2net50_14w_8s", _RESNET, 64),
    ("resnest14d", _RESNET, 64),
    ("ecaresnet26t", _RESNET, 64),
    ("resnetv2_50", {"layers": (2, 2), "channels": (32, 64), "stem_chs": 32}, 64),
    ("rexnet_100", {"width_mult": 0.5}, 64),
    ("samvit_base_patch16", _VIT | _SAM, 32),
    ("sequencer2d_s", _SEQUENCER | {"embed_dims": (32, 48), "mlp_ratios": (3.0, 3.0)}, 32),
    ("shvit_s1", {"embed_dim": (32, 48, 64), "partial_dim": (16, 16, 16)}, 128),
    ("skresnet18", _RESNET, 64),
    ("starnet_s050", {}, 64),
    ("swiftformer_xs", {}, 64),
    ("swin_tiny_patch4_window7_224", _SWIN, 64),
    ("swinv2_tiny_window8_256", _SWIN, 64),
    ("swinv2_cr_tiny_224", _SWIN, 64),
    ("tiny_vit_5m_224", _TINY_VIT, 64),
    ("tnt_s_patch16_224", _TNT | {"num_heads_inner": 2, "num_heads_outer": 4}, 64),
    ("tresnet_m", {"layers": (2, 2, 2, 2), "width_factor": 0.5}, 64),
    ("twins_pcpvt_small", _FORMER | _HEADS | {"img_size": 64}, 64),
    ("twins_svt_small", _FORMER | _HEADS | {"img_size": 64, "wss": (4, 4, 2, 2)}, 64),
    ("visformer_tiny", {"img_size": 64, "init_channels": 16, "embed_dim": 64, "depth": (2, 2, 2), "num_heads": 4}, 64),
    ("vit_tiny_patch16_224", _VIT, 32),
    ("vit_medium_patch16_reg4_gap_256", _VIT, 32),
    ("vit_base_patch16_siglip_224", _VIT, 32),
    ("vit_base_patch16_xp_224", _VIT, 32),
    ("vit_small_r26_s32_224", {"img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 4}, 64),
    ("vit_relpos_small_patch16_224", _VIT | {"init_values": 0.5}, 32),
    ("vitamin_small_224", _VITAMIN, 64),
    ("xcit_nano_12_p16_224", _VIT, 32),
)

_SEPARABLE, _ATTENTION = metaformer.SepConv, metaformer.Attention
_CAFORMER: Options = {
    "token_mixers": [_SEPARABLE, _SEPARABLE, _ATTENTION, _ATTENTION],
    "norm_layers": [metaformer.LayerNorm2dNoBias] * 2 + [metaformer.LayerNormNoBias] * 2,
}
_GMLP: Options = {"mlp_ratio": 4, "block_layer": mlp_mixer.SpatialGatingBlock, "mlp_layer": GatedMlp}
_RESMLP: Options = {"mlp_ratio": 4, "block_layer": mlp_mixer.ResBlock, "norm_layer": mlp_mixer.Affine}
_GMIXER: Options = {"mlp_ratio": (1.0, 4.0), "mlp_layer": GluMlp, "act_layer": nn.SiLU}
_GCVIT: Options = {"img_size": 128, "embed_dim": 32, "depths": (2, 2, 2, 2)}
_MVIT = mvitv2.MultiScaleVitCfg(depths=(2, 2), embed_dim=32, num_heads=2)
_NEST: Options = {"img_size": 32, "num_levels": 2, "embed_dims": (32, 64), "num_heads": (2, 4), "depths": (2, 2)}
_BIT: Options = {"layers": (2, 2), "channels": (128, 256), "stem_chs": 32, "stem_type": "fixed"}
_VOLO: Options = {
    "layers": (2, 2),
    "img_size": 32,
    "patch_size": 4,
    "downsamples": (True, False),
    "outlook_attention": (True, False),
    "embed_dims": (32, 64),
    "num_heads": (2, 4),
    "stem_hidden_dim": 16,
}

CLASSES: tuple[tuple[str, Callable[..., nn.Module], Options, int], ...] = (
    ("convmixer", convmixer.ConvMixer, {"dim": 32, "depth": 3}, 32),
    ("focalnet", focalnet.FocalNet, {"embed_dim": 32, "depths": (2, 2)}, 64),
    ("gcvit", gcvit.GlobalContextVit, _GCVIT, 128),
    ("mixer", mlp_mixer.MlpMixer, _MIXER, 32),
    ("gmlp", mlp_mixer.MlpMixer, _MIXER | _GMLP, 32),
    ("resmlp", mlp_mixer.MlpMixer, _MIXER | _RESMLP, 32),
    ("gmixer", mlp_mixer.MlpMixer, _MIXER | _GMIXER, 32),
    ("poolformer", metaformer.MetaFormer, _META, 64),
    ("convformer", metaformer.MetaFormer, _META | {"token_mixers": _SEPARABLE}, 64),
    ("caformer", metaformer.MetaFormer, _META | _CAFORMER, 64),
    ("mvitv2", mvitv2.MultiScaleVit, {"cfg": _MVIT, "img_size": (64, 64)}, 64),
    ("nest", nest.Nest, _NEST, 32),
    ("resnetv2_bit", resnetv2.ResNetV2, _BIT, 64),
    ("vgg", vgg.VGG, {"cfg": [16, "M", 32, "M", 64, 64], "mlp_ratio": 1 / 64}, 64),
    ("volo", volo.VOLO, _VOLO, 32),
)

ENTRIES: tuple[Entry, ...] = tuple(
    entry(name, "timm", partial(model, num_classes=10), tensors(normal(2, 3, size, size)))
    for name, model, size in (
        *((name, partial(timm.create_model, name, **options), size) for name, options, size in NAMED),
        *((name, partial(make, **options), size) for name, make, options, size in CLASSES),
    )
)
"""Every entry of this file."""
