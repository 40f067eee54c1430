"""Hand-written attention: every way of laying heads out that a coupling analysis has to see through."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.catalogue import Entry, Maker, entry, normal, tensors

WIDTH, HEADS, TOKENS = 64, 4, 6

Three = tuple[Tensor, Tensor, Tensor]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From query, key and value, each (batch, heads, tokens, head_dim), to the same shape as the query."""


class TokenModel(nn.Module):
    """Linear stem, two pre-norm blocks around a mixer, linear head. (batch, tokens, 24) -> (batch, tokens, 10)."""

    def __init__(self, mixer: Callable[[], nn.Module], width: int = WIDTH) -> None:
        super().__init__()
        self.stem = nn.Linear(24, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mixers = nn.ModuleList(mixer() for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 96), nn.GELU(), nn.Linear(96, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, mixer, mlp in zip(self.norms, self.mixers, self.mlps, strict=True):
            x = x + mixer(norm(x))
            x = x + mlp(x)
        out: Tensor = self.head(x)
        return out


def unbind(qkv: Tensor) -> Three:
    batch, tokens, _ = qkv.shape
    q, k, v = qkv.reshape(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def index(qkv: Tensor) -> Three:
    batch, tokens, _ = qkv.shape
    stacked = qkv.reshape(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    return stacked[0], stacked[1], stacked[2]


def chunk(qkv: Tensor) -> Three:
    q, k, v = qkv.chunk(3, -1)
    return heads(q), heads(k), heads(v)


def per_head(qkv: Tensor) -> Three:
    batch, tokens, _ = qkv.shape
    q, k, v = qkv.view(batch, tokens, HEADS, 3, -1).transpose(1, 2).unbind(3)
    return q, k, v


def per_head_chunk(qkv: Tensor) -> Three:
    batch, tokens, _ = qkv.shape
    q, k, v = qkv.view(batch, tokens, HEADS, -1).transpose(1, 2).chunk(3, -1)
    return q, k, v


def heads(x: Tensor, count: int = HEADS) -> Tensor:
    return x.view(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * 0.25
    return torch.softmax(scores, dim=-1) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / 4.0
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    total = q @ k.sum(dim=-2, keepdim=True).transpose(-2, -1)
    return q @ (k.transpose(-2, -1) @ v) / total


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Fused(nn.Module):
    """One projection for query, key and value, taken apart by `split`."""

    def __init__(self, split: Callable[[Tensor], Three], attend: Attend = sdpa) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.split, self.attend = split, attend

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(join(self.attend(*self.split(self.qkv(x)))))
        return out


class Separate(nn.Module):
    """Three projections; query and key pass through `bend` (rotary angles, norms) before attention."""

    def __init__(self, attend: Attend | nn.Module = sdpa, bend: nn.Module | None = None) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=bias) for bias in (True, False, True))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.attend = attend
        self.bend = bend or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        out: Tensor = self.out(join(self.attend(self.bend(q), self.bend(k), v)))
        return out


class Rotary(nn.Module):
    """Rotary position embedding with the angles in buffers of shape (tokens, head_dim)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, interleaved: bool, head_dim: int = WIDTH // HEADS) -> None:
        super().__init__()
        angles = torch.arange(TOKENS)[:, None] * 10.0 ** -torch.linspace(0, 2, head_dim // 2)
        angles = angles.repeat_interleave(2, 1) if interleaved else torch.cat([angles, angles], 1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.interleaved = interleaved

    def forward(self, x: Tensor) -> Tensor:
        if self.interleaved:
            turned = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
        else:
            half = x.shape[-1] // 2
            turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
        return x * self.cos + turned * self.sin


class Cosine(nn.Module):
    """Attention over normalised queries and keys with a learned temperature a head."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return (scores * self.temperature.exp()).softmax(-1) @ v


class RelativeBias(nn.Module):
    """Attention with a bias looked up from a table (2 tokens - 1, heads) by a buffer of positions."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2 * TOKENS - 1, HEADS))
        steps = torch.arange(TOKENS)
        self.register_buffer("positions", (steps[:, None] - steps[None, :] + TOKENS - 1).flatten())

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = self.table[self.positions].view(TOKENS, TOKENS, -1).permute(2, 0, 1)
        return (q @ k.transpose(-2, -1) * 0.25 + bias.unsqueeze(0)).softmax(-1) @ v


class TalkingHeads(nn.Module):
    """Attention whose scores are mixed across heads by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(HEADS, HEADS)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) * 0.25
        mixed = self.mix(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        out: Tensor = mixed.softmax(-1) @ v
        return out


class Grouped(nn.Module):
    """Fewer key and value heads than query heads, brought together by `how`."""

    def __init__(self, how: str, query_heads: int = 6, key_heads: int = 2, head_dim: int = 16) -> None:
        super().__init__()
        width = query_heads * head_dim
        self.q = nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, key_heads * head_dim, bias=False) for _ in range(2))
        self.out = nn.Linear(width, width, bias=False)
        self.rotary = Rotary(interleaved=False, head_dim=head_dim)
        self.how, self.query_heads, self.key_heads = how, query_heads, key_heads

    def forward(self, x: Tensor) -> Tensor:
        q = self.rotary(heads(self.q(x), self.query_heads))
        k, v = self.rotary(heads(self.k(x), self.key_heads)), heads(self.v(x), self.key_heads)
        if self.how == "sdpa":
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            attended = by_hand(q, self.repeat(k), self.repeat(v))
        out: Tensor = self.out(join(attended))
        return out

    def repeat(self, x: Tensor) -> Tensor:
        times = self.query_heads // self.key_heads
        if self.how == "repeat":
            return x.repeat_interleave(times, dim=1)
        batch, count, tokens, head_dim = x.shape
        return x[:, :, None].expand(batch, count, times, tokens, head_dim).reshape(batch, -1, tokens, head_dim)


class QueryKeyNorm(nn.Module):
    """Layer norm over the whole width of queries and keys, before the heads are split."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm_q, self.norm_k = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split(WIDTH, dim=-1)
        out: Tensor = self.out(join(sdpa(heads(self.norm_q(q)), heads(self.norm_k(k)), heads(v))))
        return out


class ModuleAttention(nn.Module):
    """torch's own attention module, in its batch-first form."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


class Joint(nn.Module):
    """Two streams of their own widths, attending together over their concatenated tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.image_stem, self.text_stem = nn.Linear(24, WIDTH), nn.Linear(16, 48)
        self.image_qkv, self.text_qkv = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(48, 3 * WIDTH)
        self.image_out, self.text_out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 48)
        self.image_head, self.text_head = nn.Linear(WIDTH, 10), nn.Linear(48, 10)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        image, text = self.image_stem(image), self.text_stem(text)
        pairs = zip(chunk(self.image_qkv(image)), chunk(self.text_qkv(text)), strict=True)
        q, k, v = (torch.cat(pair, dim=2) for pair in pairs)
        attended = join(sdpa(q, k, v))
        image = image + self.image_out(attended[:, : image.shape[1]])
        text = text + self.text_out(attended[:, image.shape[1] :])
        return self.image_head(image), self.text_head(text)


class SpatialAttention(nn.Module):
    """Attention over the pixels of an image by 1x1 convolutions, residual, with group norm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 48, 3, padding=1), nn.Conv2d(48, 3, 3, padding=1)
        self.norm = nn.GroupNorm(4, 48)
        self.qkv, self.out = nn.Conv2d(48, 144, 1), nn.Conv2d(48, 48, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, _, height, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, 3, HEADS, -1, height * width).unbind(1)
        attended = v @ (q.transpose(-2, -1) @ k * 0.3).softmax(-1).transpose(-2, -1)
        out: Tensor = self.head(x + self.out(attended.reshape(batch, -1, height, width)))
        return out


def _tokens(name: str, mixer: Callable[[], nn.Module], width: int = WIDTH) -> Entry:
    return entry(name, "peer_failures", partial(TokenModel, mixer, width), tensors(normal(2, TOKENS, 24)))


def _other(name: str, model: Callable[[], nn.Module], *inputs: Maker) -> Entry:
    return entry(name, "peer_failures", model, tensors(*inputs))


ENTRIES: tuple[Entry, ...] = (
    *(_tokens(f"fused_qkv_{split.__name__}", partial(Fused, split)) for split in (unbind, index, chunk)),
    *(_tokens(f"fused_qkv_{split.__name__}", partial(Fused, split)) for split in (per_head, per_head_chunk)),
    _tokens("separate_qkv", Separate),
    _tokens("attention_causal", partial(Separate, causal)),
    _tokens("attention_by_hand", partial(Separate, by_hand)),
    _tokens("attention_by_einsum", partial(Separate, by_einsum)),
    _tokens("attention_by_hand_fused", partial(Fused, unbind, by_hand)),
    _tokens("attention_linear", partial(Separate, linear)),
    _tokens("attention_cosine", lambda: Separate(Cosine())),
    _tokens("attention_relative_bias", lambda: Separate(RelativeBias())),
    _tokens("attention_talking_heads", lambda: Separate(TalkingHeads())),
    _tokens("attention_module", ModuleAttention),
    _tokens("rope_rotate_half", lambda: Separate(bend=Rotary(interleaved=False))),
    _tokens("rope_interleaved", lambda: Separate(bend=Rotary(interleaved=True))),
    _tokens("qk_norm_head", lambda: Separate(bend=nn.LayerNorm(WIDTH // HEADS))),
    _tokens("qk_norm_width", QueryKeyNorm),
    _tokens("gqa_expand", partial(Grouped, "expand"), 96),
    _tokens("gqa_repeat_interleave", partial(Grouped, "repeat"), 96),
    _tokens("gqa_sdpa", partial(Grouped, "sdpa"), 96),
    _tokens("gqa_multi_query", partial(Grouped, "expand", query_heads=4, key_heads=1)),
    _tokens("gqa_multi_query_sdpa", partial(Grouped, "sdpa", query_heads=4, key_heads=1)),
    _other("attention_joint_streams", Joint, normal(2, 6, 24), normal(2, 4, 16)),
    _other("attention_spatial", SpatialAttention, normal(2, 3, 6, 6)),
)
"""Every entry of this file."""
