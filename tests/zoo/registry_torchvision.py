"""The registry of torchvision, by family: the file of ``torchvision.models`` that a model is written in."""

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torchvision import models
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from zoo import torchvision_models
from zoo.attempt import Attempt
from zoo.catalogue import normal, tensors
from zoo.torchvision_detection import undecided

LIBRARY = "torchvision"

_ROOT = "torchvision.models."
_SHAPES = ((3, 64, 64), (3, 224, 224), (3, 300, 300), (3, 8, 64, 64))


@functools.cache
def families() -> dict[str, tuple[str, ...]]:
    """Names of the registered models of each family."""
    found: dict[str, list[str]] = {}
    for name in models.list_models():
        written = models.get_model_builder(name).__module__.removeprefix(_ROOT)
        found.setdefault(written, []).append(name)
    return {name: tuple(members) for name, members in sorted(found.items())}


@functools.cache
def covered() -> frozenset[str]:
    """Files that some part of a hand-shrunk entry is written in."""
    files: set[str] = set()
    for _, model in torchvision_models.MODELS:
        with torch.device("meta"):
            files.update(type(part).__module__.removeprefix(_ROOT) for part in model().modules())
    return frozenset(files & set(families()))


def attempts(name: str) -> Iterator[Attempt]:
    """The smallest model of the family on images, clips and pairs of images."""
    model = functools.partial(_model, min(families()[name], key=_parameters))
    for shape in _SHAPES:
        yield Attempt(model, tensors(normal(2, *shape)))
    yield Attempt(model, tensors(normal(2, 3, 128, 128), normal(2, 3, 128, 128)))


def _model(name: str) -> nn.Module:
    known = inspect.signature(models.get_model_builder(name)).parameters
    options: dict[str, Any] = {"weights": None} | ({"weights_backbone": None} if "weights_backbone" in known else {})
    model: nn.Module = models.get_model(name, **options)
    return undecided(model) if isinstance(getattr(model, "transform", None), GeneralizedRCNNTransform) else model


def _parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in _model(name).parameters())
