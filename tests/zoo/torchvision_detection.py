"""Detectors and optical flow of torchvision.

Which boxes stay depends on the data, so detectors end before that choice.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet, backbone_utils, keypoint_rcnn, mask_rcnn, ssdlite
from torchvision.ops import FeaturePyramidNetwork
from zoo.catalogue import Inputs, normal, tensors


class Undecided(nn.Module):
    """A detector's backbone and the head that predicts on every place of every level."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: torch.Tensor) -> object:
        """Raw predictions for images of shape (B, 3, H, W)."""
        return self.head(list(self.backbone(images).values()))


class Levels(nn.Module):
    """A backbone whose last maps go into a feature pyramid without extra levels."""

    def __init__(self, body: nn.Module, channels: list[int]) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(channels, 32)

    def forward(self, images: torch.Tensor) -> object:
        """Maps of each level for images of shape (B, 3, H, W)."""
        return self.fpn(self.body(images))


def _resnet_fpn() -> backbone_utils.BackboneWithFPN:
    body = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1])
    layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
    return backbone_utils.BackboneWithFPN(body, layers, [64, 128, 256, 512], out_channels=32)


def _mobilenet_fpn() -> nn.Module:
    body = models.mobilenet_v3_large(weights=None, width_mult=0.5).features
    return Levels(IntermediateLayerGetter(body, {"6": "0", "16": "1"}), [24, 480])


def undecided(detector: nn.Module) -> Undecided:
    """What a detector of one stage, or the first stage of one of two, computes before boxes are chosen."""
    stage = getattr(detector, "rpn", detector)
    return Undecided(detector.get_submodule("backbone"), stage.get_submodule("head"))


def _detector(made: Callable[..., nn.Module]) -> nn.Module:
    return undecided(made(_resnet_fpn(), num_classes=5))


def _ssdlite() -> nn.Module:
    return undecided(ssdlite.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5))


def _mask_head() -> nn.Module:
    return nn.Sequential(mask_rcnn.MaskRCNNHeads(32, (32, 48), 1), mask_rcnn.MaskRCNNPredictor(48, 32, 5))


def _keypoint_head() -> nn.Module:
    return nn.Sequential(keypoint_rcnn.KeypointRCNNHeads(32, (32, 48)), keypoint_rcnn.KeypointRCNNPredictor(48, 17))


def _raft() -> nn.Module:
    model: nn.Module = models.optical_flow.raft_small(weights=None)
    return model


_frames = tensors(normal(2, 3, 128, 128), normal(2, 3, 128, 128), num_flow_updates=lambda: 2)
_image = tensors(normal(2, 3, 64, 64))
_crop = tensors(normal(2, 32, 14, 14))

TABLE: tuple[tuple[str, Callable[[], nn.Module], Callable[[], Inputs]], ...] = (
    ("resnet_fpn", _resnet_fpn, _image),
    ("mobilenet_fpn", _mobilenet_fpn, _image),
    ("faster_rcnn", partial(_detector, FasterRCNN), _image),
    ("retinanet", partial(_detector, RetinaNet), _image),
    ("fcos", partial(_detector, FCOS), _image),
    ("ssdlite", _ssdlite, tensors(normal(2, 3, 128, 128))),
    ("mask_rcnn_head", _mask_head, _crop),
    ("keypoint_rcnn_head", _keypoint_head, _crop),
    ("raft_small", _raft, _frames),
)
"""Name, model and inputs of every entry."""
