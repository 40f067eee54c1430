import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import normalize

from graphopt.demo.similarity import mean_cosine, similarity_correlation


def test_mean_cosine() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    second = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    assert mean_cosine(first, second) == pytest.approx((1 + 0 + 0.6) / 3)


def test_correlation_is_blind_to_rotation_and_sees_reversal() -> None:
    embeddings = normalize(torch.randn(20, 8), dim=1)
    rotation = torch.linalg.qr(torch.randn(8, 8)).Q
    assert similarity_correlation(embeddings, embeddings @ rotation) == pytest.approx(1.0, abs=1e-3)
    assert similarity_correlation(embeddings, embeddings) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_correlation_equals_scipys_with_and_without_ties(digits: int) -> None:
    first, second = (torch.randn(15, 3).mul(10**digits).round().div(10**digits) for _ in range(2))
    rows, columns = torch.triu_indices(15, 15, offset=1)
    wanted = spearmanr((first @ first.T)[rows, columns].numpy(), (second @ second.T)[rows, columns].numpy()).statistic
    assert similarity_correlation(first, second) == pytest.approx(wanted, abs=1e-9)
