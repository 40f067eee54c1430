"""Architectures of torchvision: classification, segmentation, video, detection and optical flow."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torchvision import models
from torchvision.models import convnext, efficientnet, regnet, swin_transformer, vision_transformer
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.fcn import FCN, FCNHead
from torchvision.models.video import mvit, resnet
from zoo import torchvision_detection
from zoo.catalogue import Entry, entry, normal, tensors


def _named(name: str, **options: Any) -> Callable[[], nn.Module]:
    return partial(models.get_model, name, weights=None, **{"num_classes": 10} | options)


def _small_head(name: str, features: int) -> Callable[[], nn.Module]:
    """The named model with its classifier's hidden width cut from 4096 to 64; the wide one is never allocated."""

    def make() -> nn.Module:
        with torch.device("meta"):
            model: nn.Module = models.get_model(name, weights=None)
        for layer in cast(nn.Sequential, model.features).to_empty(device="cpu"):
            reset = getattr(layer, "reset_parameters", None)
            if reset is not None:
                reset()
        model.classifier = nn.Sequential(
            nn.Linear(features, 64),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
        return model

    return make


def _swin(block: Callable[..., nn.Module], merging: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    return partial(
        models.SwinTransformer,
        patch_size=[4, 4],
        embed_dim=32,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=10,
        block=block,
        downsample_layer=merging,
    )


def _mvit(**options: Any) -> Callable[[], nn.Module]:
    rows = [(2, 16, 32, 1, 4), (2, 32, 32, 1, 4), (4, 32, 64, 2, 2), (4, 64, 64, 1, 2)]
    setting = [
        mvit.MSBlockConfig(heads, before, after, [3, 3, 3], [3, 3, 3], [1, query, query], [1, key, key])
        for heads, before, after, query, key in rows
    ]
    options = {"proj_after_attn": True, "num_classes": 10} | options
    return partial(mvit.MViT, spatial_size=(32, 32), temporal_size=4, block_setting=setting, **options)


def _efficientnet_v2() -> nn.Module:
    setting = [
        efficientnet.FusedMBConvConfig(1, 3, 1, 16, 16, 2),
        efficientnet.FusedMBConvConfig(4, 3, 2, 16, 32, 2),
        efficientnet.MBConvConfig(4, 3, 2, 32, 48, 2),
        efficientnet.MBConvConfig(6, 3, 2, 48, 64, 2),
    ]
    model: nn.Module = models.EfficientNet(setting, dropout=0.1, num_classes=10, last_channel=128)
    return model


def _fcn() -> nn.Module:
    """A fully convolutional head with its auxiliary head on a dilated MobileNet, as torchvision joins them."""
    backbone = models.mobilenet_v3_large(weights=None, dilated=True, width_mult=0.5).features
    features = IntermediateLayerGetter(backbone, {"4": "aux", "16": "out"})
    model: nn.Module = FCN(features, FCNHead(480, 10), FCNHead(24, 10))
    return model


def _s3d() -> nn.Module:
    model: nn.Module = models.video.s3d(weights=None, num_classes=10)
    model.avgpool = nn.AvgPool3d(2, stride=1)
    return model


_CONVNEXT = partial(
    models.ConvNeXt,
    [convnext.CNBlockConfig(24, 48, 2), convnext.CNBlockConfig(48, 96, 2), convnext.CNBlockConfig(96, None, 2)],
    num_classes=10,
    layer_scale=0.5,
)
_CONV_STEM = [vision_transformer.ConvStemConfig(16, 3, 2), vision_transformer.ConvStemConfig(32, 3, 4)]
_REGNET = partial(models.RegNet, num_classes=10, stem_width=16)
_STAGES = partial(regnet.BlockParams, [2, 2, 2], [32, 64, 96], [8, 16, 16], [1.0, 1.0, 1.0], [2, 2, 2])
_VIT = partial(
    models.VisionTransformer,
    image_size=32,
    patch_size=8,
    num_layers=2,
    num_heads=4,
    hidden_dim=64,
    mlp_dim=128,
    num_classes=10,
)
_MAXVIT = partial(
    models.MaxVit,
    input_size=(32, 32),
    stem_channels=16,
    partition_size=4,
    block_channels=[32, 64],
    block_layers=[2, 2],
    head_dim=16,
    stochastic_depth_prob=0.0,
    num_classes=10,
)
_DENSENET = partial(models.DenseNet, 8, (3, 3, 3), num_init_features=16, num_classes=10)
_VIDEO_RESNET = partial(models.video.VideoResNet, resnet.BasicBlock, num_classes=10)
_SWIN3D = partial(
    models.video.SwinTransformer3d,
    patch_size=[2, 4, 4],
    embed_dim=32,
    depths=[2, 2],
    num_heads=[2, 4],
    window_size=[2, 4, 4],
    num_classes=10,
    downsample_layer=swin_transformer.PatchMerging,
)

_RESNET = partial(models.ResNet, models.resnet.Bottleneck, num_classes=10)
_SHUFFLENET = partial(models.ShuffleNetV2, [2, 2, 2], num_classes=10)

_TABLE: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...]], ...] = (
    ("alexnet", _small_head("alexnet", 9216), (64, 64)),
    ("vgg11", _small_head("vgg11", 25088), (32, 32)),
    ("vgg13_bn", _small_head("vgg13_bn", 25088), (32, 32)),
    ("resnet18", _named("resnet18"), (64, 64)),
    ("resnet50", partial(_RESNET, [2, 2, 2, 2], width_per_group=16), (64, 64)),
    (
        "resnet50_group_norm",
        partial(_RESNET, [1, 2, 1, 1], width_per_group=16, norm_layer=partial(nn.GroupNorm, 8)),
        (64, 64),
    ),
    ("resnext50_8x8d", partial(_RESNET, [1, 2, 1, 1], groups=8, width_per_group=8), (64, 64)),
    ("wide_resnet", partial(_RESNET, [2, 1, 1, 1], width_per_group=128), (64, 64)),
    ("densenet", _DENSENET, (64, 64)),
    ("googlenet", _named("googlenet", aux_logits=False, init_weights=False), (64, 64)),
    ("inception_v3", _named("inception_v3", aux_logits=False, init_weights=False), (80, 80)),
    ("mobilenet_v2", _named("mobilenet_v2", width_mult=0.5), (64, 64)),
    ("mobilenet_v3_small", _named("mobilenet_v3_small"), (64, 64)),
    ("mobilenet_v3_large", _named("mobilenet_v3_large", width_mult=0.5), (64, 64)),
    ("efficientnet_b0", _named("efficientnet_b0"), (64, 64)),
    ("efficientnet_v2", _efficientnet_v2, (64, 64)),
    ("mnasnet0_5", _named("mnasnet0_5"), (64, 64)),
    ("shufflenet_v2", partial(_SHUFFLENET, [24, 48, 96, 192, 256]), (64, 64)),
    ("squeezenet1_0", _named("squeezenet1_0"), (64, 64)),
    ("squeezenet1_1", _named("squeezenet1_1"), (64, 64)),
    ("regnet_x", partial(_REGNET, _STAGES()), (64, 64)),
    ("regnet_y", partial(_REGNET, _STAGES(se_ratio=0.25)), (64, 64)),
    ("convnext", _CONVNEXT, (64, 64)),
    ("swin", _swin(swin_transformer.SwinTransformerBlock, swin_transformer.PatchMerging), (32, 32)),
    ("swin_v2", _swin(swin_transformer.SwinTransformerBlockV2, swin_transformer.PatchMergingV2), (64, 64)),
    ("vit", _VIT, (32, 32)),
    ("vit_conv_stem", partial(_VIT, conv_stem_configs=_CONV_STEM), (32, 32)),
    ("maxvit", _MAXVIT, (32, 32)),
    ("fcn_mobilenet", _fcn, (64, 64)),
    ("deeplabv3_mobilenet", _named("deeplabv3_mobilenet_v3_large", weights_backbone=None), (64, 64)),
    ("lraspp_mobilenet", _named("lraspp_mobilenet_v3_large", weights_backbone=None), (64, 64)),
    ("r3d", partial(_VIDEO_RESNET, [resnet.Conv3DSimple] * 4, [1, 1, 1, 1], resnet.BasicStem), (4, 32, 32)),
    ("mc3_18", _named("mc3_18"), (4, 32, 32)),
    ("r2plus1d", partial(_VIDEO_RESNET, [resnet.Conv2Plus1D] * 4, [1, 1, 1, 1], resnet.R2Plus1dStem), (4, 32, 32)),
    ("s3d", _s3d, (16, 64, 64)),
    ("mvit_v1", _mvit(residual_pool=False, residual_with_cls_embed=True, rel_pos_embed=False), (4, 32, 32)),
    ("mvit_v2", _mvit(residual_pool=True, residual_with_cls_embed=False, rel_pos_embed=True), (4, 32, 32)),
    ("swin3d", _SWIN3D, (4, 32, 32)),
)

MODELS: tuple[tuple[str, Callable[[], nn.Module]], ...] = (
    *((name, model) for name, model, _ in _TABLE),
    *((name, model) for name, model, _ in torchvision_detection.TABLE),
)
"""Name and model of every entry."""

ENTRIES: tuple[Entry, ...] = tuple(
    entry(name, "torchvision", model, inputs)
    for name, model, inputs in (
        *((name, model, tensors(normal(2, 3, *size))) for name, model, size in _TABLE),
        *torchvision_detection.TABLE,
    )
)
"""Every entry of both files."""
