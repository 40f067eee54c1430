"""Detectors, classifiers and codecs of ultralytics, pytorchcv, efficientnet_pytorch and encodec."""

import importlib
import os
import sys
from importlib.util import find_spec
from types import ModuleType

from torch import nn
from zoo.catalogue import Entry, normal, tensors
from zoo.other_packages import Options, Row, rows

_IMAGE = tensors(normal(2, 3, 64, 64))
_SOUND = tensors(normal(2, 1, 320))


def _from_yaml(name: str) -> nn.Module:
    """A model of ultralytics from one of its own descriptions; it asks the network nothing and writes no settings."""
    os.environ["YOLO_AUTOINSTALL"], os.environ["YOLO_OFFLINE"] = "false", "true"
    tasks = importlib.import_module("ultralytics.nn.tasks")
    description = tasks.yaml_model_load(name)
    heads = {"seg": "Segmentation", "cls": "Classification", "pose": "Pose", "obb": "OBB"}
    kind = name.removesuffix(".yaml").partition("-")[2]
    made: nn.Module = getattr(tasks, f"{heads.get(kind, 'Detection')}Model")(description, verbose=False)
    return made


def _yolo(name: str) -> Row:
    return name, _from_yaml, {"name": f"{name}.yaml"}, _IMAGE


DETECTORS = rows("ultralytics", *(_yolo(name) for name in ("yolov5n", "yolov8n", "yolov8n-seg", "yolov8n-cls", "yolov8n-pose", "yolov9t", "yolov10n", "yolo11n", "yolo11n-obb", "yolo12n")))


def _encodec(**options: float) -> nn.Module:
    """EnCodec without its file reader: torchaudio is read when sound files are resampled, and by nothing in a model."""
    if find_spec("torchaudio") is None:
        sys.modules["torchaudio"] = ModuleType("torchaudio")
    try:
        modules = importlib.import_module("encodec.modules")
    finally:
        if find_spec_is_stub():
            del sys.modules["torchaudio"]
    encoder = modules.SEANetEncoder(dimension=32, n_filters=8, n_residual_layers=1, ratios=[4, 2], **options)
    decoder = modules.SEANetDecoder(dimension=32, n_filters=8, n_residual_layers=1, ratios=[4, 2], **options)
    return nn.Sequential(encoder, decoder)
