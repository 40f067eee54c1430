"""How alike two sets of sentence embeddings are."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def mean_cosine(first: Tensor, second: Tensor) -> float:
    """Return the mean cosine between embeddings of the same sentences.

    Args:
        first: (count, width) embeddings of unit length.
        second: (count, width) embeddings of unit length.
    """
    return float((first * second).sum(dim=1).mean())


def similarity_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation between the similarities of all pairs of sentences.

    It is 1 where both embeddings put all pairs of sentences in the same order of similarity, which is all that search
    and clustering see of them.

    Args:
        first: (count, width) embeddings of unit length, count at least 3.
        second: (count, width) embeddings of unit length of the same sentences.
    """
    rows, columns = torch.triu_indices(len(first), len(first), offset=1)
    one, other = (_ranks((each @ each.T)[rows, columns].numpy()) for each in (first, second))
    return float(_centred(one) @ _centred(other))


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the rank of each value from 0; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[inverse], dtype=np.float64)


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values shifted to mean 0 and scaled to length 1."""
    shifted = values - values.mean()
    return np.asarray(shifted / np.linalg.norm(shifted))
