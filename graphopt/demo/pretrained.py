"""The trained models the demonstration starts from, out of the cache where they are in it."""

from dataclasses import asdict
from pathlib import Path

import torch

from graphopt.demo.cache import Trained, trained
from graphopt.demo.classifier import ClassifierConfig, DigitClassifier, fresh_classifier, train_classifier
from graphopt.demo.diffusion import TrainingConfig, train
from graphopt.demo.digits import Digits
from graphopt.demo.model import DiT, DiTConfig


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = DiT(sizes)

    def make() -> Trained:
        loss = train(model, data.train, training, "training the diffusion transformer")
        return Trained(model.state_dict(), {"loss": loss})

    config = {"model": asdict(sizes), "training": asdict(training)}
    model.load_state_dict(dict(trained(cache, "dit", config, make).tensors))
    return model.eval()
