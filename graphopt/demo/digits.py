"""The handwritten digits that come with scikit-learn."""

from dataclasses import dataclass

import torch
from torch import Tensor

from graphopt.demo.packages import require

CLASSES = 10


@dataclass(frozen=True)
class LabelledImages:
    """Images with the digit each of them shows.

    Attributes:
        images: (count, 1, 8, 8) float32 in [-1, 1].
        labels: (count,) int64 from 0 to 9.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Digits:
    """The digits in two parts that share no image.

    Attributes:
        train: What models learn from.
        held_out: What they are measured against.
    """

    train: LabelledImages
    held_out: LabelledImages


def load_digits(held_out: int = 500, seed: int = 0) -> Digits:
    """Load scikit-learn's 1797 digits and part them at random.

    Args:
        held_out: Number of images in the held-out part.
        seed: Seeds the choice.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    bunch = require("sklearn.datasets").load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 8 - 1
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rest, chosen = order[held_out:], order[:held_out]
    return Digits(LabelledImages(images[rest], labels[rest]), LabelledImages(images[chosen], labels[chosen]))
