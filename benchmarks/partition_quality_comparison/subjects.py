"""Trained denoisers, and those of their modules that are spread over devices."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from graphopt.demo.cache import Trained, trained
from graphopt.demo.diffusion import TrainingConfig, train
from graphopt.demo.digits import Digits, LabelledImages
from graphopt.demo.model import DiT, DiTConfig
from graphopt.demo.unet import UNet, UNetConfig
from partition_quality_comparison.noise_prediction import train_to_predict_noise

Training = Callable[[nn.Module, LabelledImages, TrainingConfig], float]
TARGETS: Mapping[str, Training] = {"noise": train_to_predict_noise, "velocity": train}
"""What a model may be trained to predict."""


SIZES: Mapping[str, DiTConfig | UNetConfig] = {
    "dit": DiTConfig(depth=8, width=64),
    "unet": UNetConfig(widths=(16, 24, 32), condition=48),
}
TINY: Mapping[str, DiTConfig | UNetConfig] = {
    "dit": DiTConfig(depth=2, width=16, heads=2),
    "unet": UNetConfig(widths=(8, 16), blocks=1, attention=(1,), condition=16),
}
"""Sizes of the models by name."""


def load(sizes: DiTConfig | UNetConfig, target: str, cache: Path, data: Digits, training: TrainingConfig) -> nn.Module:
    """Return a model trained on the training part of the digits, out of the cache where it is in it.

    Args:
        sizes: Its sizes.
        target: What it predicts, of `TARGETS`.
        cache: Folder of trained weights.
        data: The digits.
        training: Steps, rates and seed, that of the initial weights included.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = DiT(sizes) if isinstance(sizes, DiTConfig) else UNet(sizes)

    def make() -> Trained:
        loss = TARGETS[target](model, data.train, training)
        return Trained(model.state_dict(), {"loss": loss})

    name = "dit" if isinstance(sizes, DiTConfig) else "unet"
    config = {"model": asdict(sizes), "training": asdict(training), "target": target}
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
