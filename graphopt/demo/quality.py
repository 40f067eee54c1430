"""How good generated digits are."""

import itertools
import statistics
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graphopt.demo.classifier import DigitClassifier, accuracy
from graphopt.demo.diffusion import SamplingConfig, TrainingConfig, diffusion_loss, noised_batches, sample
from graphopt.demo.digits import CLASSES, LabelledImages
from graphopt.demo.spread import Spread, summarise

Matrix = NDArray[np.float64]

_LOSS_SEED = 1_000_003


def frechet_distance(first: Matrix, second: Matrix) -> float:
    """Return the squared Fréchet distance of two normal distributions fitted to two sets of features.

    It is |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁^½ Σ₂ Σ₁^½)^½), in the features' squared unit, and 0 for equal sets.

    Args:
        first: (count, features), count at least 2.
        second: (count, features), as many features.

    References:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017, arXiv 1706.08500. Departure: the
        product is made symmetric first, so that its root is that of a symmetric matrix and real.
    """
    gap = first.mean(axis=0) - second.mean(axis=0)
    spread1, spread2 = _covariance(first), _covariance(second)
    root = _symmetric_root(spread1)
    cross = _symmetric_root(root @ spread2 @ root)
    return float(gap @ gap + np.trace(spread1) + np.trace(spread2) - 2 * np.trace(cross))


@dataclass(frozen=True)
class Judge:
    """A classifier and real digits to compare with.

    Attributes:
        classifier: Trained on digits that are not among the held-out ones.
        held_out: Real digits.
    """

    classifier: DigitClassifier
    held_out: LabelledImages

    def score(self, drawn: LabelledImages) -> dict[str, float]:
        """Return the accuracy of the classifier on images and their Fréchet distance to the held-out digits."""
        distance = frechet_distance(self._features(drawn), self._features(self.held_out))
        return {"accuracy": accuracy(self.classifier, drawn), "frechet": distance}

    def score_model(self, model: nn.Module, config: SamplingConfig) -> dict[str, Spread]:
        """Sample a diffusion model under each seed and summarise the scores; also take its loss on held-out digits.

        Args:
            model: Called as ``model(x_t, t, y)``.
            config: Count, steps, guidance and seeds.
        """
        labels = torch.arange(config.count) % CLASSES
        drawn = [LabelledImages(sample(model, labels, config, seed), labels) for seed in config.seeds]
        scores = summarise([self.score(images) for images in drawn])
        return {**scores, "loss": Spread(self.held_out_loss(model))}

    @torch.no_grad()
    def held_out_loss(self, model: nn.Module, batches: int = 8) -> float:
        """Return the diffusion loss on the held-out digits, with the same times and noise at every call.

        Args:
            model: Called as ``model(x_t, t, y)``.
            batches: How many batches, each as large as the held-out part, are averaged over.
        """
        config = TrainingConfig(batch_size=len(self.held_out), seed=_LOSS_SEED)
        chosen = itertools.islice(noised_batches(self.held_out, config), batches)
        return statistics.fmean(float(diffusion_loss(model(*batch.args), batch)) for batch in chosen)

    @torch.no_grad()
    def _features(self, data: LabelledImages) -> Matrix:
        return self.classifier.features(data.images).numpy().astype(np.float64)


def _covariance(features: Matrix) -> Matrix:
    return np.atleast_2d(np.cov(features, rowvar=False))


def _symmetric_root(matrix: Matrix) -> Matrix:
    """Return the positive root of a symmetric positive matrix; what rounding made negative counts as zero."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)
