"""Sequence models written out from their papers: recurrences, long convolutions, codebooks, sets and tables.

References:
    Sun et al., Retentive Network, arXiv 2307.08621; Peng et al., RWKV, arXiv 2305.13048; Gu et al., S4D,
    arXiv 2206.11893; Poli et al., Hyena, arXiv 2302.10866; van den Oord et al., WaveNet, arXiv 1609.03499; Kong et
    al., HiFi-GAN, arXiv 2010.05646; Bahdanau et al., arXiv 1409.0473; Lample et al., BiLSTM-CRF, arXiv 1603.01360;
    Zaheer et al., Deep Sets, arXiv 1703.06114; Lee et al., Set Transformer, arXiv 1810.00825; Naumov et al., DLRM,
    arXiv 1906.00091; Cheng et al., Wide & Deep, arXiv 1606.07792.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.catalogue import Entry, entry, integers, normal, tensors

WIDTH, HEADS, VOCABULARY = 48, 4, 64


class Retention(nn.Module):
    """Attention without softmax whose scores decay with distance, a norm for each head, a gate behind."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.gate, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(5))
        self.norm = nn.GroupNorm(HEADS, WIDTH)
        self.register_buffer("decay", torch.log(1 - 2.0 ** (-5.0 - torch.arange(HEADS))))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        query, key, value = (
            layer(x).view(batch, tokens, HEADS, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        position = torch.arange(tokens)
        distance = position[:, None] - position[None, :]
        decay = torch.exp(self.get_buffer("decay")[:, None, None] * distance) * (distance >= 0)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) * decay
        mixed = (scores @ value).transpose(1, 2).reshape(batch * tokens, -1)
        mixed = self.norm(mixed).view(batch, tokens, -1)
        out: Tensor = self.out(F.silu(self.gate(x)) * mixed)
        return out


class TimeMix(nn.Module):
    """RWKV's weighted keys and values: a mix with the token before, then a decaying sum for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.rand(3, WIDTH))
        self.key, self.value, self.receptance, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.decay, self.first = nn.Parameter(torch.rand(WIDTH)), nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        before = F.pad(x, (0, 0, 1, -1))
        key, value, receptance = (
            layer(x * mix + before * (1 - mix))
            for layer, mix in zip((self.key, self.value, self.receptance), self.mix, strict=True)
        )
        top = torch.zeros_like(key[:, 0])
        bottom = torch.zeros_like(key[:, 0])
        steps = []
        for token in range(x.shape[1]):
            weight = torch.exp(self.first + key[:, token])
            steps.append((top + weight * value[:, token]) / (bottom + weight))
            fade, new = torch.exp(-torch.exp(self.decay)), torch.exp(key[:, token])
            top, bottom = fade * top + new * value[:, token], fade * bottom + new
        out: Tensor = self.out(torch.sigmoid(receptance) * torch.stack(steps, 1))
        return out


class DiagonalStateSpace(nn.Module):
    """S4D: a kernel as long as the sequence from complex states for each channel, applied by a Fourier transform."""

    def __init__(self, states: int = 8) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.rand(WIDTH) - 3)
        self.real = nn.Parameter(torch.log(0.5 * torch.ones(WIDTH, states)))
        self.imaginary = nn.Parameter(math.pi * torch.arange(states).repeat(WIDTH, 1).float())
        self.reads = nn.Parameter(torch.randn(WIDTH, states, 2))
        self.skip, self.out = nn.Parameter(torch.randn(WIDTH)), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        poles = torch.complex(-torch.exp(self.real), self.imaginary)
        powers = (poles * torch.exp(self.step)[:, None])[:, :, None] * torch.arange(tokens)
        reads = torch.view_as_complex(self.reads) * (torch.exp(poles * torch.exp(self.step)[:, None]) - 1) / poles
        kernel = 2 * torch.einsum("hn,hnl->hl", reads, torch.exp(powers)).real
        signal = x.transpose(1, 2)
        spectrum = torch.fft.rfft(signal, n=2 * tokens) * torch.fft.rfft(kernel, n=2 * tokens)
        mixed = torch.fft.irfft(spectrum, n=2 * tokens)[..., :tokens] + signal * self.skip[:, None]
        return F.glu(self.out(F.gelu(mixed.transpose(1, 2))), dim=-1)


class LongConvolution(nn.Module):
    """Hyena of order two: three projections with a short convolution each, gates around an implicit long filter."""

    def __init__(self, features: int = 9) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.short = nn.Conv1d(3 * WIDTH, 3 * WIDTH, 3, padding=2, groups=3 * WIDTH)
        self.filter = nn.Sequential(nn.Linear(features, 32), nn.SiLU(), nn.Linear(32, WIDTH))
        self.skip = nn.Parameter(torch.randn(WIDTH))
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        signal = self.short(self.project(x).transpose(1, 2))[..., :tokens]
        first, second, value = signal.chunk(3, dim=1)
        time = torch.linspace(0, 1, tokens)[:, None]
        kernel = self.filter(torch.cos(time * math.pi * torch.arange(self.features))).transpose(0, 1)
        gated = value * second
        spectrum = torch.fft.rfft(gated, n=2 * tokens) * torch.fft.rfft(kernel, n=2 * tokens)
        mixed = torch.fft.irfft(spectrum, n=2 * tokens)[..., :tokens] + gated * self.skip[:, None]
        out: Tensor = self.out((first * mixed).transpose(1, 2))
        return out


class LanguageModel(nn.Module):
    """Token table, two residual blocks around a mixer, a head. (batch, tokens) -> (batch, tokens, vocabulary)."""

    def __init__(self, mixer: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.mixers = nn.ModuleList(mixer() for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 96), nn.GELU(), nn.Linear(96, WIDTH)) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block, (mixer, mlp) in enumerate(zip(self.mixers, self.mlps, strict=True)):
            x = x + mixer(self.norms[2 * block](x))
            x = x + mlp(self.norms[2 * block + 1](x))
        out: Tensor = self.head(x)
        return out


class CausalSelfAttention(nn.Module):
    """GPT-2's attention: one projection for all three, a fixed triangular mask."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mask", torch.tril(torch.ones(32, 32)).view(1, 1, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        query, key, value = (
            part.view(batch, tokens, HEADS, width // HEADS).transpose(1, 2) for part in self.qkv(x).split(width, dim=2)
        )
        scores = query @ key.transpose(-2, -1) * (1.0 / math.sqrt(key.size(-1)))
        scores = scores.masked_fill(self.get_buffer("mask")[:, :, :tokens, :tokens] == 0, float("-inf"))
        mixed = F.softmax(scores, dim=-1) @ value
        out: Tensor = self.out(mixed.transpose(1, 2).contiguous().view(batch, tokens, width))
        return out


class WaveNet(nn.Module):
    """Dilated causal convolutions with gates; residuals and skips from each, over quantised sound."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 24)
        self.dilations = (1, 2, 4)
        self.gates = nn.ModuleList(nn.Conv1d(24, 64, 2, dilation=dilation) for dilation in self.dilations)
        self.residuals = nn.ModuleList(nn.Conv1d(32, 24, 1) for _ in self.dilations)
        self.skips = nn.ModuleList(nn.Conv1d(32, 40, 1) for _ in self.dilations)
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(40, 40, 1), nn.ReLU(), nn.Conv1d(40, VOCABULARY, 1))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).transpose(1, 2)
        total: Tensor | float = 0.0
        for dilation, gate, residual, skip in zip(self.dilations, self.gates, self.residuals, self.skips, strict=True):
            signal, control = gate(F.pad(x, (dilation, 0))).chunk(2, dim=1)
            hidden = torch.tanh(signal) * torch.sigmoid(control)
            total = total + skip(hidden)
            x = x + residual(hidden)
        out: Tensor = self.head(total)
        return out


class Vocoder(nn.Module):
    """HiFi-GAN's generator: transposed convolutions, each followed by the mean of residual stacks of two kernels."""

    def __init__(self) -> None:
        super().__init__()
        weighted = torch.nn.utils.parametrizations.weight_norm
        self.stem = weighted(nn.Conv1d(16, 64, 7, padding=3))
        self.ups = nn.ModuleList(
            weighted(nn.ConvTranspose1d(64 // 2**k, 32 // 2**k, 4, stride=2, padding=1)) for k in range(2)
        )
        self.stacks = nn.ModuleList(nn.ModuleList(self._stack(32 // 2**k, size) for size in (3, 5)) for k in range(2))
        self.head = weighted(nn.Conv1d(16, 1, 7, padding=3))

    @staticmethod
    def _stack(width: int, size: int) -> nn.ModuleList:
        weighted = torch.nn.utils.parametrizations.weight_norm
        return nn.ModuleList(
            weighted(nn.Conv1d(width, width, size, dilation=dilation, padding=dilation * (size - 1) // 2))
            for dilation in (1, 3)
        )

    def forward(self, mel: Tensor) -> Tensor:
        x = self.stem(mel)
        for up, stacks in zip(self.ups, self.stacks, strict=True):
            x = up(F.leaky_relu(x, 0.1))
            total: Tensor | float = 0.0
            for stack in stacks:
                branch = x
                for layer in stack:
                    branch = branch + layer(F.leaky_relu(branch, 0.1))
                total = total + branch
            x = total / len(stacks)
        return torch.tanh(self.head(F.leaky_relu(x)))


class Translator(nn.Module):
    """GRU encoder both ways, additive attention, a GRU cell that decodes step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(VOCABULARY, 32), nn.Embedding(VOCABULARY, 32)
        self.encoder = nn.GRU(32, 24, batch_first=True, bidirectional=True)
        self.keys, self.query, self.score = nn.Linear(48, 40), nn.Linear(36, 40), nn.Linear(40, 1)
        self.start, self.cell, self.head = nn.Linear(48, 36), nn.GRUCell(32 + 48, 36), nn.Linear(36 + 48, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, _ = self.encoder(self.source(source))
        keys = self.keys(memory)
        state = torch.tanh(self.start(memory.mean(1)))
        steps = []
        for word in self.target(target).unbind(1):
            weights = self.score(torch.tanh(keys + self.query(state)[:, None])).softmax(1)
            context = (weights * memory).sum(1)
            state = self.cell(torch.cat([word, context], -1), state)
            steps.append(self.head(torch.cat([state, context], -1)))
        return torch.stack(steps, 1)


class Tagger(nn.Module):
    """Emission scores of a BiLSTM-CRF: words and their letters, both read in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.letters = nn.Embedding(VOCABULARY, 32), nn.Embedding(30, 16)
        self.spelling = nn.Conv1d(16, 24, 3, padding=1)
        self.reader = nn.LSTM(56, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 9)

    def forward(self, words: Tensor, letters: Tensor) -> Tensor:
        batch, tokens, length = letters.shape
        spelled = self.spelling(self.letters(letters).view(batch * tokens, length, -1).transpose(1, 2)).amax(-1)
        read, _ = self.reader(torch.cat([self.words(words), spelled.view(batch, tokens, -1)], -1))
        out: Tensor = self.head(read)
        return out


_IDS = tensors(integers(VOCABULARY, 2, 12))

ENTRIES: tuple[Entry, ...] = tuple(
    entry(f"paper-{name}", "others", model, inputs)
    for name, model, inputs in (
        ("gpt", lambda: LanguageModel(CausalSelfAttention), _IDS),
        ("retnet", lambda: LanguageModel(Retention), _IDS),
        ("rwkv", lambda: LanguageModel(TimeMix), tensors(integers(VOCABULARY, 2, 6))),
        ("s4d", lambda: LanguageModel(DiagonalStateSpace), _IDS),
        ("hyena", lambda: LanguageModel(LongConvolution), _IDS),
        ("wavenet", WaveNet, tensors(integers(VOCABULARY, 2, 20))),
        ("hifigan", Vocoder, tensors(normal(2, 16, 12))),
        ("seq2seq", Translator, tensors(integers(VOCABULARY, 2, 7), integers(VOCABULARY, 2, 4))),
        ("bilstm_crf", Tagger, tensors(integers(VOCABULARY, 2, 6), integers(30, 2, 6, 5))),
    )
)
"""Every entry of this file."""
