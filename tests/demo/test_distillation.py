import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from graphopt.demo.distillation import DistillationConfig, distil, disturbed_batches, embedding_loss
from graphopt.demo.encoder import Tokens
from graphopt.demo.similarity import mean_cosine


class Tiny(nn.Module):
    """A sentence encoder of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(30, 8)
        self.hidden = nn.Linear(8, 16)
        self.out = nn.Linear(16, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mean = (self.embeddings(input_ids) * attention_mask.unsqueeze(2)).mean(dim=1)
        return normalize(self.out(self.hidden(mean).relu()), dim=1)


@pytest.fixture
def tokens() -> Tokens:
    return torch.randint(30, (64, 5)), torch.ones(64, 5, dtype=torch.int64)


def gradient(encoder: nn.Module, tokens: Tokens, noise: float) -> float:
    embeddings = encoder(*tokens).detach()
    (batch,) = disturbed_batches(tokens, embeddings, count=1, size=64, noise=noise, seed=0)
    encoder.zero_grad()
    embedding_loss(encoder(*batch.args), batch).backward()
    return sum(float(parameter.grad.abs().sum()) for parameter in encoder.parameters() if parameter.grad is not None)


def test_without_noise_there_is_no_gradient(tokens: Tokens) -> None:
    encoder = Tiny()
    assert gradient(encoder, tokens, noise=0.0) == 0.0
    assert gradient(encoder, tokens, noise=0.01) > 0.0


def test_targets_are_beside_the_embeddings_by_the_noise(tokens: Tokens) -> None:
    embeddings = torch.randn(64, 8)
    batches = disturbed_batches(tokens, embeddings, count=3, size=16, noise=0.01, seed=0)
    assert [batch.args[0].shape for batch in batches] == [(16, 5)] * 3
    targets = torch.cat([batch.target for batch in batches])
    assert float((targets - embeddings[:48]).std()) == pytest.approx(0.01, rel=0.1)
    again = disturbed_batches(tokens, embeddings, count=3, size=16, noise=0.01, seed=0)
    assert torch.equal(again[2].target, batches[2].target)


def test_distillation_brings_a_damaged_encoder_back(tokens: Tokens) -> None:
    encoder = Tiny()
    embeddings = encoder(*tokens).detach()
    config = DistillationConfig(steps=40, batch_size=32, learning_rate=1e-2)
    cosines = []
    for _ in range(2):
        damaged = copy.deepcopy(encoder)
        nn.init.zeros_(damaged.out.weight[:, :8].detach())
        before = mean_cosine(damaged(*tokens).detach(), embeddings)
        distil(damaged, tokens, embeddings, config, "recovering")
        cosines.append(mean_cosine(damaged(*tokens).detach(), embeddings))
        assert torch.equal(damaged.embeddings.weight, encoder.embeddings.weight)
    assert cosines[0] == cosines[1]
    assert 1 - cosines[0] < 0.3 * (1 - before)
