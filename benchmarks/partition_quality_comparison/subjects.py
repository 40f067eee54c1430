"""Trained denoisers, and those of their modules that are spread over devices."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from graphopt.demo.cache import Trained, trained
from graphopt.demo.diffusion import TrainingConfig, train
from graphopt.demo.digits import Digits, LabelledImages
from graphopt.demo.model import DiT, DiTConfig
from graphopt.demo.unet import UNet, UNetConfig
from partition_quality_comparison.noise_prediction import train_to_predict_noise

DIT = DiTConfig(depth=8, width=64)
UNET = UNetConfig(widths=(16, 24, 32), condition=48)
Training = Callable[[nn.Module, LabelledImages, TrainingConfig], float]
TARGETS: Mapping[str, Training] = {"noise": train_to_predict_noise, "velocity": train}
"""What a model may be trained to predict."""


@dataclass(frozen=True)
class Architecture:
    """A kind of model.

    Attributes:
        sizes: Its configuration.
        make: Makes it with fresh weights.
    """

    sizes: DiTConfig | UNetConfig
    make: Callable[[], nn.Module]


ARCHITECTURES = {
    "dit": Architecture(DIT, lambda: DiT(DIT)),
    "unet": Architecture(UNET, lambda: UNet(UNET)),
}


def load(name: str, target: str, cache: Path, data: Digits, training: TrainingConfig) -> nn.Module:
    """Return a model trained on the training part of the digits, out of the cache where it is in it.

    Args:
        name: Its name in `ARCHITECTURES`.
        target: What it predicts, of `TARGETS`.
        cache: Folder of trained weights.
        data: The digits.
        training: Steps, rates and seed, that of the initial weights included.
    """
    architecture = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = architecture.make()

    def make() -> Trained:
        loss = TARGETS[target](model, data.train, training)
        return Trained(model.state_dict(), {"loss": loss})

    config = {"model": asdict(architecture.sizes), "training": asdict(training), "target": target}
    model.load_state_dict(dict(trained(cache, f"partition-{name}-{target}", config, make).tensors))
    return model.eval()


def modules(model: nn.Module) -> list[str]:
    """Return the names of the modules that are spread over devices, in the order in which they are computed.

    Args:
        model: One of the demo's denoisers.
    """
    if isinstance(model, DiT):
        return [f"blocks.{index}" for index in range(len(model.blocks))]
    lists = ("down", "middle", "up")
    layers = [f"{name}.{index}" for name in lists for index in range(len(model.get_submodule(name)))]
    return ["conv_in", *layers, "conv_out"]
