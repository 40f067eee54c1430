"""Detectors, classifiers and sound codecs that are described by files or by hand-sized parts of a package."""

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from torch import nn
from zoo.catalogue import normal, tensors
from zoo.other_packages import Row, rows

_IMAGE = tensors(normal(2, 3, 64, 64))
_HEADS = {"seg": "Segmentation", "cls": "Classification", "pose": "Pose", "obb": "OBB"}
_YOLOS = (
    "yolov5n",
    "yolov8n",
    "yolov8n-seg",
    "yolov8n-cls",
    "yolov8n-pose",
    "yolov9t",
    "yolov10n",
    "yolo11n",
    "yolo11n-obb",
    "yolo12n",
)


def _from_description(name: str) -> nn.Module:
    """A model of ultralytics from one of its own files; the package is told to ask the network nothing.

    ``dynamic`` is its own switch for graphs of any input size; without it anchors of an earlier call are kept.
    """
    os.environ["YOLO_AUTOINSTALL"], os.environ["YOLO_OFFLINE"] = "false", "true"
    tasks = importlib.import_module("ultralytics.nn.tasks")
    head = _HEADS.get(name.partition("-")[2], "Detection")
    made: nn.Module = getattr(tasks, f"{head}Model")(f"{name}.yaml", verbose=False)
    for module in made.modules():
        if getattr(module, "dynamic", True) is False:
            module.dynamic = True
    return made


def _described(name: str) -> Row:
    return name, _from_description, {"name": name}, _IMAGE


def _encodec(**options: Any) -> nn.Module:
    """EnCodec's encoder and decoder, made without torchaudio, which only reads sound files."""
    known = sys.modules.get("torchaudio")
    sys.modules["torchaudio"] = known or ModuleType("torchaudio")
    try:
        modules = importlib.import_module("encodec.modules")
    finally:
        if known is None:
            del sys.modules["torchaudio"]
    sizes = {"dimension": 32, "n_filters": 8, "n_residual_layers": 1, "ratios": [4, 2], "lstm": 1, **options}
    return nn.Sequential(modules.SEANetEncoder(**sizes), modules.SEANetDecoder(**sizes))


_SOUND = tensors(normal(2, 1, 320))
_EFFICIENT = {"width_coefficient": 0.5, "depth_coefficient": 0.5, "image_size": 64, "num_classes": 10}


def _efficient() -> nn.Module:
    library = importlib.import_module("efficientnet_pytorch")
    utilities = importlib.import_module("efficientnet_pytorch.utils")
    made: nn.Module = library.EfficientNet(*utilities.efficientnet(**_EFFICIENT))
    made.set_swish(memory_efficient=False)
    return made


_CLASSIFIERS: tuple[str, ...] = (
    "resnet10",
    "preresnet10",
    "seresnet10",
    "diaresnet10",
    "cbam_resnet18",
    "bam_resnet18",
    "igcv3_wd4",
    "airnet50_1x64d_r16",
    "shufflenet_g3_wd4",
    "menet108_8x1_g3",
    "sqnxt23_w1",
    "fdmobilenet_wd4",
    "peleenet",
    "bagnet9",
    "dicenet_wd2",
    "darts",
    "squeezenet_v1_1",
)

ENTRIES = (
    *rows("ultralytics", *(_described(name) for name in _YOLOS)),
    *rows(
        "encodec",
        ("causal", _encodec, {"causal": True}, _SOUND),
        ("weight_norm", _encodec, {"norm": "weight_norm"}, _SOUND),
    ),
    *rows("efficientnet_pytorch", ("efficientnet", _efficient, {}, _IMAGE)),
    *rows(
        "pytorchcv",
        *(
            (
                name,
                "pytorchcv.model_provider:get_model",
                {"name": name, "num_classes": 10},
                tensors(normal(2, 3, 224, 224)),
            )
            for name in _CLASSIFIERS
        ),
    ),
)
"""Every entry of this file."""
