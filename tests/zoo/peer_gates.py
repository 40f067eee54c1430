"""Hand-written gates, experts, norms, recurrences and unusual inputs and outputs."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.catalogue import Entry, Maker, entry, integers, normal, tensors


class Gated(nn.Module):
    """Feed-forward whose hidden layer is one projection cut in two, value times activated gate."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.stem, self.both, self.out, self.head = (
            nn.Linear(24, 32),
            nn.Linear(32, 96),
            nn.Linear(48, 32),
            nn.Linear(32, 10),
        )
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        hidden = self.both(x)
        if self.how == "glu":
            hidden = F.glu(hidden, dim=-1)
        else:
            gate, value = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * value
        out: Tensor = self.head(x + self.out(hidden))
        return out


class AdaptiveNorm(nn.Module):
    """Diffusion transformer block: six chunks of one projection shift, scale and gate two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.condition, self.head = nn.Linear(24, 32), nn.Linear(16, 32), nn.Linear(32, 10)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(32, 192))
        self.norm = nn.LayerNorm(32, elementwise_affine=False)
        self.mixer = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32))
        self.mlp = nn.Sequential(nn.Linear(32, 96), nn.GELU(), nn.Linear(96, 32))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.stem(x)
        parts = self.modulation(self.condition(condition)).unsqueeze(1).chunk(6, dim=-1)
        x = x + parts[2] * self.mixer(self.norm(x) * (1 + parts[1]) + parts[0])
        x = x + parts[5] * self.mlp(self.norm(x) * (1 + parts[4]) + parts[3])
        out: Tensor = self.head(x)
        return out


class TiedEmbedding(nn.Module):
    """Token table shared with the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.norm, self.mlp = nn.LayerNorm(32), nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        out: Tensor = self.head(self.norm(x + self.mlp(x)))
        return out


class RawParameters(nn.Module):
    """Plain parameters through functional linear and matmul, one of them transposed and used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(32, 24)), nn.Parameter(torch.randn(32, 48))
        self.bias, self.head = nn.Parameter(torch.randn(48)), nn.Parameter(torch.randn(10, 24))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.linear(x, self.first))
        x = x + F.relu(x @ self.second + self.bias) @ self.second.t()
        return F.linear(x @ self.first, self.head)


class ExpertsEinsum(nn.Module):
    """Experts stacked in one tensor, all run through einsum and weighed by a router."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(24, 32), nn.Linear(32, 4), nn.Linear(32, 10)
        self.up, self.down = nn.Parameter(torch.randn(4, 32, 48)), nn.Parameter(torch.randn(4, 48, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        hidden = F.gelu(torch.einsum("btc,ech->beth", x, self.up))
        mixed = torch.einsum("beth,ehc,bte->btc", hidden, self.down, self.router(x).softmax(-1))
        out: Tensor = self.head(x + mixed)
        return out


class ExpertsBmm(nn.Module):
    """Experts stacked in one tensor and run as a batch of matrix products, gate and value fused."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(24, 32), nn.Linear(32, 4), nn.Linear(32, 10)
        self.up, self.down = nn.Parameter(torch.randn(4, 32, 96)), nn.Parameter(torch.randn(4, 48, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(0, 1)
        gate, value = torch.bmm(x.expand(4, -1, -1), self.up).chunk(2, dim=-1)
        weights = self.router(x).sigmoid().t().unsqueeze(-1)
        x = x + (torch.bmm(F.silu(gate) * value, self.down) * weights).sum(dim=0)
        out: Tensor = self.head(x)
        return out


class StateSpace(nn.Module):
    """Selective state space without the scan: depthwise causal convolution, split of (dt, B, C), gates."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.both, self.head = nn.Linear(24, 32), nn.Linear(32, 96), nn.Linear(32, 10)
        self.conv = nn.Conv1d(48, 48, 4, padding=3, groups=48)
        self.select, self.step = nn.Linear(48, 8 + 2 * 16, bias=False), nn.Linear(8, 48)
        self.decay, self.skip = nn.Parameter(torch.randn(48, 16)), nn.Parameter(torch.randn(48))
        self.out = nn.Linear(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.stem(x)
        hidden, gate = self.both(residual).chunk(2, dim=-1)
        hidden = F.silu(self.conv(hidden.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        step, into, outof = self.select(hidden).split([8, 16, 16], dim=-1)
        step = F.softplus(self.step(step))
        kept = torch.exp(-step.unsqueeze(-1) * self.decay.exp())
        state = kept + (step * hidden).unsqueeze(-1) * into.unsqueeze(2)
        mixed = (state * outof.unsqueeze(2)).sum(dim=-1) + hidden * self.skip
        out: Tensor = self.head(residual + self.out(mixed * F.silu(gate)))
        return out


class SharedLayer(nn.Module):
    """One layer called twice, once on each side of another, and one norm called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.between = nn.Linear(24, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.shared(self.norm(self.stem(x))))
        x = F.gelu(self.shared(self.norm(F.gelu(self.between(x)))))
        out: Tensor = self.head(self.norm(x))
        return out


class TokensAndPositions(nn.Module):
    """Class token and register tokens before the sequence, positions added, mean over all but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mlp = nn.Linear(24, 32), nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))
        self.token, self.registers = nn.Parameter(torch.zeros(32)), nn.Parameter(torch.zeros(1, 2, 32))
        self.positions, self.norm, self.head = nn.Parameter(torch.zeros(9, 32)), nn.LayerNorm(32), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x, batch = self.stem(x), x.shape[0]
        x = torch.cat([self.token.expand(batch, 1, -1), self.registers.repeat(batch, 1, 1), x], dim=1)
        x = self.norm(x + self.positions + self.mlp(x + self.positions))
        out: Tensor = self.head(torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=-1))
        return out


class Recurrent(nn.Module):
    """Two recurrent layers of torch between linear ones."""

    def __init__(self, recurrent: Callable[..., nn.Module], both_ways: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(24, 32), nn.Linear(48 * (1 + both_ways), 10)
        self.body = recurrent(32, 48, num_layers=2, batch_first=True, bidirectional=both_ways)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.stem(x))[0])
        return out


class WrittenNorm(nn.Module):
    """Root-mean-square norm or layer norm, spelled out in elementary operators."""

    def __init__(self, centred: bool) -> None:
        super().__init__()
        self.stem, self.weight = nn.Linear(24, 32), nn.Parameter(torch.ones(32))
        self.bias = nn.Parameter(torch.zeros(32)) if centred else None
        self.mlp, self.head = nn.Sequential(nn.Linear(32, 48), nn.SiLU(), nn.Linear(48, 32)), nn.Linear(32, 10)
        self.centred = centred

    def norm(self, x: Tensor) -> Tensor:
        if self.centred:
            x = x - x.mean(dim=-1, keepdim=True)
            x = x / (x.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt() * self.weight
        else:
            x = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        return x if self.bias is None else x + self.bias

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(self.norm(x + self.mlp(self.norm(x))))
        return out


class ThreeTables(nn.Module):
    """Sum of word, position and segment embeddings, normalised, with a masked mean."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.segments = nn.Embedding(40, 32), nn.Embedding(12, 32), nn.Embedding(2, 32)
        self.register_buffer("positions", torch.arange(12)[None], persistent=False)
        self.norm, self.mlp = nn.LayerNorm(32), nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, ids: Tensor, segments: Tensor) -> Tensor:
        x = self.words(ids) + self.places(self.positions[:, : ids.shape[1]]) + self.segments(segments)
        x = self.mlp(self.norm(x)) * (ids != 0).unsqueeze(-1)
        out: Tensor = self.head(x.sum(dim=1))
        return out


class Siamese(nn.Module):
    """One encoder for two inputs, compared by difference and product."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 32))
        self.head = nn.Linear(96, 10)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.encoder(left), self.encoder(right)
        out: Tensor = self.head(torch.cat([a, (a - b).abs(), a * b], dim=-1))
        return out


class DictOutput(nn.Module):
    """Named outputs, one of them the hidden state itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(24, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 48))
        self.hidden = nn.Linear(48, 32)
        self.boxes, self.labels = nn.Linear(32, 4), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.hidden(F.relu(self.stem(x))))
        return {"boxes": self.boxes(x).sigmoid(), "labels": self.labels(x), "features": x}


class NestedOutput(DictOutput):
    """A list of pyramid levels, a tuple of heads and a constant."""

    def forward(self, x: Tensor) -> Any:
        low = F.relu(self.stem(x))
        high = F.relu(self.hidden(low))
        return [(self.boxes(high), self.labels(high)), {"levels": [low.mean(1), high.mean(1)]}, 3]


class KeywordInputs(nn.Module):
    """Named inputs given in another order than the signature, one of them a flag, one left out."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(24, 32), nn.Linear(16, 32)
        self.hidden, self.head = nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, image: Tensor, text: Tensor, *, scale: Tensor | None = None, norm: bool = False) -> Tensor:
        x = F.gelu(self.hidden(F.gelu(self.image(image)) * F.gelu(self.text(text))))
        x = x if scale is None else x * scale
        out: Tensor = self.head(F.normalize(x, dim=-1) if norm else x)
        return out


class Mixer(nn.Module):
    """Token mixing through a transpose, then channel mixing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.norm = nn.Linear(24, 32), nn.Linear(32, 10), nn.LayerNorm(32)
        self.tokens = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 6))
        self.channels = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.head(x + self.channels(x))
        return out


class LowRank(nn.Module):
    """A wide layer with a low-rank update beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.head = nn.Linear(24, 32), nn.Linear(32, 48), nn.Linear(48, 10)
        self.down, self.up = nn.Parameter(torch.randn(16, 32)), nn.Parameter(torch.zeros(48, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        out: Tensor = self.head(F.relu(self.wide(x) + x @ self.down.T @ self.up.T * 0.5))
        return out


_TOKENS = normal(2, 6, 24)
_IDS = integers(40, 2, 8)

_TABLE: tuple[tuple[str, Callable[[], nn.Module], tuple[Maker, ...], dict[str, Maker]], ...] = (
    ("gate_chunk", lambda: Gated("chunk"), (_TOKENS,), {}),
    ("gate_glu", lambda: Gated("glu"), (_TOKENS,), {}),
    ("adaptive_norm_six_chunks", AdaptiveNorm, (_TOKENS, normal(2, 16)), {}),
    ("tied_embedding", TiedEmbedding, (_IDS,), {}),
    ("raw_parameters", RawParameters, (_TOKENS,), {}),
    ("experts_einsum", ExpertsEinsum, (_TOKENS,), {}),
    ("experts_bmm", ExpertsBmm, (_TOKENS,), {}),
    ("state_space", StateSpace, (_TOKENS,), {}),
    ("shared_layer", SharedLayer, (_TOKENS,), {}),
    ("tokens_and_positions", TokensAndPositions, (_TOKENS,), {}),
    ("lstm", lambda: Recurrent(nn.LSTM, both_ways=False), (_TOKENS,), {}),
    ("lstm_both_ways", lambda: Recurrent(nn.LSTM, both_ways=True), (_TOKENS,), {}),
    ("gru", lambda: Recurrent(nn.GRU, both_ways=False), (_TOKENS,), {}),
    ("written_rms_norm", lambda: WrittenNorm(centred=False), (_TOKENS,), {}),
    ("written_layer_norm", lambda: WrittenNorm(centred=True), (_TOKENS,), {}),
    ("three_embedding_tables", ThreeTables, (_IDS, integers(2, 2, 8)), {}),
    ("siamese", Siamese, (normal(2, 24), normal(2, 24)), {}),
    ("dict_output", DictOutput, (_TOKENS,), {}),
    ("nested_output", NestedOutput, (_TOKENS,), {}),
    ("keyword_inputs", KeywordInputs, (), {"text": normal(2, 16), "image": normal(2, 24), "norm": lambda: True}),
    ("token_mixer", Mixer, (_TOKENS,), {}),
    ("low_rank_update", LowRank, (_TOKENS,), {}),
)

ENTRIES: tuple[Entry, ...] = tuple(
    entry(name, "peer_failures", model, tensors(*args, **kwargs)) for name, model, args, kwargs in _TABLE
)
"""Every entry of this file."""
