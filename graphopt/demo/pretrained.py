"""The trained models the demonstration starts from, out of the cache where they are in it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from graphopt.demo.cache import Trained, trained
from graphopt.demo.classifier import ClassifierConfig, DigitClassifier, fresh_classifier, train_classifier
from graphopt.demo.diffusion import TrainingConfig, train
from graphopt.demo.digits import Digits
from graphopt.demo.model import DiT, DiTConfig
from graphopt.demo.unet import UNet, UNetConfig

Model = TypeVar("Model", bound=nn.Module)


def digit_classifier(cache: Path, data: Digits, config: ClassifierConfig) -> DigitClassifier:
    """Return the judge, trained on the training part of the digits.

    Args:
        cache: Folder of trained weights.
        data: The digits.
        config: Sizes, steps and seed.
    """

    def make() -> Trained:
        return Trained(train_classifier(data.train, config).state_dict(), {})

    model = fresh_classifier(config)
    model.load_state_dict(dict(trained(cache, "judge", asdict(config), make).tensors))
    return model.eval()


def diffusion_transformer(cache: Path, data: Digits, sizes: DiTConfig, training: TrainingConfig) -> DiT:
    """Return the diffusion transformer, trained on the training part of the digits.

    Args:
        cache: Folder of trained weights.
        data: The digits.
        sizes: Sizes of the model.
        training: Steps, rates and seed, that of the initial weights included.
    """
    return _trained("dit", lambda: DiT(sizes), asdict(sizes), cache, data, training)


def diffusion_unet(cache: Path, data: Digits, sizes: UNetConfig, training: TrainingConfig) -> UNet:
    """Return the diffusion U-Net, trained on the training part of the digits.

    Args:
        cache: Folder of trained weights.
        data: The digits.
        sizes: Sizes of the model.
        training: Steps, rates and seed, that of the initial weights included.
    """
    return _trained("unet", lambda: UNet(sizes), asdict(sizes), cache, data, training)


def _trained(
    name: str, fresh: Callable[[], Model], sizes: dict[str, Any], cache: Path, data: Digits, training: TrainingConfig
) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = fresh()

    def make() -> Trained:
        loss = train(model, data.train, training, f"training the diffusion model ({name})")
        return Trained(model.state_dict(), {"loss": loss})

    config = {"model": sizes, "training": asdict(training)}
    model.load_state_dict(dict(trained(cache, name, config, make).tensors))
    return model.eval()
