"""Segmentation networks of segmentation-models-pytorch."""

from typing import Any

from zoo.catalogue import normal, tensors
from zoo.other_packages import Options, Row, rows

_IMAGE = tensors(normal(2, 3, 64, 64))
_SMP: Options = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 4}
_TU: Options = {"encoder_weights": None, "classes": 4}


def _smp(name: str, class_name: str, **options: Any) -> Row:
    return name, f"segmentation_models_pytorch:{class_name}", _SMP | options, _IMAGE


ENTRIES = rows(
    "segmentation_models_pytorch",
    _smp("unet", "Unet", decoder_channels=(64, 48, 32, 24, 16)),
    _smp("unet_scse", "Unet", decoder_channels=(64, 48, 32, 24, 16), decoder_attention_type="scse"),
    _smp("unet_mobilenet", "Unet", encoder_name="mobilenet_v2", decoder_channels=(64, 48, 32, 24, 16)),
    _smp("unetplusplus", "UnetPlusPlus", decoder_channels=(64, 48, 32, 24, 16)),
    _smp("manet", "MAnet", decoder_channels=(64, 48, 32, 32, 16), decoder_pab_channels=16),
    _smp("linknet", "Linknet"),
    _smp("fpn", "FPN", decoder_pyramid_channels=32, decoder_segmentation_channels=32),
    _smp("fpn_efficientnet", "FPN", encoder_name="efficientnet-b0", decoder_pyramid_channels=32),
    _smp("pspnet", "PSPNet", psp_out_channels=32),
    ("pan", "segmentation_models_pytorch:PAN", _SMP, tensors(normal(2, 3, 128, 128))),
    _smp("deeplabv3", "DeepLabV3", decoder_channels=32),
    _smp("deeplabv3plus", "DeepLabV3Plus", decoder_channels=32),
    _smp("upernet", "UPerNet", decoder_channels=32),
    _smp("segformer", "Segformer", encoder_name="mit_b0", decoder_segmentation_channels=32),
)
"""Every entry of this file."""
