"""A small digit classifier: the judge of generated samples."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.demo.digits import CLASSES, LabelledImages
from graphopt.demo.progress import shown


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """How the classifier is made and trained.

    Attributes:
        width: Channels of the first convolution; the second has twice as many.
        features: Length of the penultimate features.
        epochs: Passes over the data.
        batch_size: Images per step.
        learning_rate: AdamW's rate.
        seed: Seeds initial weights and order.
    """

    width: int = 32
    features: int = 64
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0


class DigitClassifier(nn.Module):
    """Two convolutions, a pooling, and a hidden layer whose outputs serve as features.

    Args:
        config: Sizes.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.hidden = nn.Linear(2 * width * 16, config.features)
        self.out = nn.Linear(config.features, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """Map images (batch, 1, 8, 8) to non-negative features (batch, features)."""
        x = functional.relu(self.conv2(functional.relu(self.conv1(images))))
        return functional.relu(self.hidden(functional.max_pool2d(x, 2).flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, 1, 8, 8) to logits (batch, 10)."""
        logits: Tensor = self.out(self.features(images))
        return logits


def fresh_classifier(config: ClassifierConfig) -> DigitClassifier:
    """Make an untrained classifier whose weights depend on the configuration's seed alone.

    Args:
        config: Sizes and seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return DigitClassifier(config)


def train_classifier(data: LabelledImages, config: ClassifierConfig) -> DigitClassifier:
    """Train a classifier on real digits.

    Args:
        data: Images to learn from.
        config: Sizes, steps and seed.
    """
    model = fresh_classifier(config)
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=1e-2)
    for _ in shown(range(config.epochs), "training the judge"):
        for rows in torch.randperm(len(data), generator=generator).split(config.batch_size):
            loss = functional.cross_entropy(model(data.images[rows]), data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: LabelledImages) -> float:
    """Return the share of images that a classifier takes for what they are labelled, from 0 to 1."""
    return float((model(data.images).argmax(dim=1) == data.labels).float().mean())
