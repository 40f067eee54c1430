"""Hand-written convolutional networks: layouts, concatenations, groups and norms that couple channels."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from zoo.catalogue import Entry, entry, normal, tensors


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups)


def unit(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, kernel, groups=groups), nn.BatchNorm2d(outputs), nn.ReLU())


class Flatten(nn.Module):
    """Convolution, permutation of (channels, height, width) by `order`, flatten, linear."""

    def __init__(self, order: tuple[int, int, int]) -> None:
        super().__init__()
        self.body, self.head = unit(3, 16), nn.Sequential(nn.Linear(16 * 12, 32), nn.ReLU(), nn.Linear(32, 10))
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).permute(0, *self.order).flatten(1))
        return out


class FlattenTokens(nn.Module):
    """(batch, tokens, channels).flatten(1) into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(6 * 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.gelu(self.norm(self.stem(x))).flatten(1))
        return out


class PatchMerging(nn.Module):
    """Four strided slices concatenated, normalised and projected, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 2, stride=2)
        self.norms = nn.ModuleList([nn.LayerNorm(64), nn.LayerNorm(128)])
        self.reductions = nn.ModuleList([nn.Linear(64, 32, bias=False), nn.Linear(128, 48, bias=False)])
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        for norm, reduction in zip(self.norms, self.reductions, strict=True):
            parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
            x = reduction(norm(torch.cat(parts, dim=-1)))
        out: Tensor = self.head(x.mean(dim=(1, 2)))
        return out


class C2f(nn.Module):
    """Chunk, a chain of bottlenecks, concatenation of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = unit(3, 16), unit(16, 48, 1)
        self.blocks = nn.ModuleList(nn.Sequential(unit(24, 24), unit(24, 24)) for _ in range(2))
        self.join, self.head = unit(96, 32, 1), conv(32, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        steps = list(self.expand(self.stem(x)).chunk(2, 1))
        for block in self.blocks:
            steps.append(steps[-1] + block(steps[-1]))
        out: Tensor = self.head(self.join(torch.cat(steps, dim=1)))
        return out


class DenseNet(nn.Module):
    """Every layer reads the concatenation of all before it; two blocks with a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.blocks = nn.ModuleList([self.block(16), self.block(24)])
        self.transitions = nn.ModuleList([unit(64, 24, 1), unit(72, 40, 1)])
        self.head = nn.Linear(40, 10)

    @staticmethod
    def block(inputs: int) -> nn.ModuleList:
        return nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), conv(width, 16)) for width in range(inputs, inputs + 48, 16)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            for layer in cast(nn.ModuleList, block):
                x = torch.cat([x, layer(x)], dim=1)
            x = F.avg_pool2d(transition(x), 2)
        out: Tensor = self.head(x.mean(dim=(2, 3)))
        return out


class ChannelShuffle(nn.Module):
    """Four units of half identity, half convolution, concatenation and shuffle across two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 32)
        self.branches = nn.ModuleList(nn.Sequential(unit(16, 16, 1), unit(16, 16, groups=16)) for _ in range(4))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            kept, changed = x.chunk(2, dim=1)
            x = torch.cat([kept, branch(changed)], dim=1)
            batch, channels, height, width = x.shape
            x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)
        out: Tensor = self.head(x.mean(dim=(2, 3)))
        return out


class SqueezeExcite(nn.Module):
    """Inverted residual with a gate computed from its own pooled channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.depthwise = conv(3, 16), unit(16, 48, 1), unit(48, 48, groups=48)
        self.squeeze, self.excite, self.project = nn.Linear(48, 16), nn.Linear(16, 48), conv(48, 16, 1)
        self.head = conv(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        hidden = self.depthwise(self.expand(x))
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(hidden, 1).flatten(1)))).sigmoid()
        out: Tensor = self.head(x + self.project(hidden * gate[:, :, None, None]))
        return out


class StraddlingUNet(nn.Module):
    """U-Net whose group norm (8 groups of 12) crosses the border of the concatenated skip (32 + 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.middle = conv(3, 32), conv(32, 64, stride=2), conv(64, 64)
        self.norm_down, self.norm_middle, self.norm_up = (nn.GroupNorm(8, width) for width in (64, 64, 96))
        self.up, self.skip, self.head = conv(96, 32), conv(96, 32, 1), conv(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        high = self.stem(x)
        low = self.down(F.silu(high))
        low = low + self.middle(F.silu(self.norm_middle(F.silu(self.norm_down(low)))))
        joined = torch.cat([F.interpolate(low, scale_factor=2.0, mode="nearest"), high], dim=1)
        out: Tensor = self.head(F.silu(self.skip(joined) + self.up(F.silu(self.norm_up(joined)))))
        return out


class StandardConv2d(nn.Conv2d):
    """Convolution whose weight is standardised over each filter at every call."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = self.weight.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        return F.conv2d(x, (self.weight - mean) / (variance + 1e-5).sqrt() * 0.1, self.bias, padding=1)


class ResNeXt(nn.Module):
    """Bottleneck with a grouped convolution, then a depthwise one, each residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 32)
        self.grouped = nn.Sequential(unit(32, 48, 1), unit(48, 48, groups=4), conv(48, 32, 1))
        self.depthwise = nn.Sequential(unit(32, 64, groups=32), conv(64, 32, 1))
        self.head = conv(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.grouped(x))
        out: Tensor = self.head(x + self.depthwise(x))
        return out


class Generator(nn.Module):
    """Transposed convolutions, plain, grouped and depthwise, with a skip after each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 32)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1, groups=groups) for groups in (1, 4, 32)
        )
        self.mixes = nn.ModuleList(unit(32, 32, 1) for _ in range(3))
        self.head = conv(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for up, mix in zip(self.ups, self.mixes, strict=True):
            x = mix(up(x))
        out: Tensor = self.head(x)
        return out


class LayerScale(nn.Module):
    """ConvNeXt block: depthwise convolution, channels-last norm and linear layers, a scale for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 4, stride=4)
        self.depthwise, self.norm = conv(32, 32, 7, groups=32), nn.LayerNorm(32)
        self.grow, self.shrink, self.scale = nn.Linear(32, 96), nn.Linear(96, 32), nn.Parameter(torch.full((32,), 1e-6))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        hidden = self.shrink(F.gelu(self.grow(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))))
        x = x + (self.scale * hidden).permute(0, 3, 1, 2)
        out: Tensor = self.head(x.mean((-2, -1)))
        return out


class LongSkip(nn.Module):
    """A stack that keeps the outputs of its first half and concatenates them, last first, in its second half."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(24, 32)
        self.first, self.second = (
            nn.ModuleList(
                nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32)) for _ in "ab"
            )
            for _ in "ab"
        )
        self.joins, self.head = nn.ModuleList(nn.Linear(64, 32) for _ in "ab"), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x, kept = self.stem(x), []
        for block in self.first:
            x = x + block(x)
            kept.append(x)
        for join, block in zip(self.joins, self.second, strict=True):
            x = join(torch.cat([x, kept.pop()], dim=-1))
            x = x + block(x)
        out: Tensor = self.head(x)
        return out


class LatentAutoencoder(nn.Module):
    """Group-norm autoencoder whose latent is split into mean and log-variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 32), nn.GroupNorm(8, 32), nn.SiLU(), conv(32, 64, stride=2))
        self.norm, self.moments, self.decode_in = nn.GroupNorm(8, 64), conv(64, 32), conv(16, 64)
        self.decoder = nn.Sequential(nn.GroupNorm(8, 64), nn.SiLU(), nn.Upsample(scale_factor=2.0), conv(64, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.moments(F.silu(self.norm(self.encoder(x)))).chunk(2, dim=1)
        latent = mean + log_variance.clamp(-30.0, 20.0).mul(0.5).exp()
        return self.decoder(self.decode_in(latent)), mean, log_variance


class PatchEmbedding(nn.Module):
    """Patches, class token in front, position table, one block, head on token 0."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, stride=4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.zeros(1, 5, 32))
        self.block = nn.TransformerEncoderLayer(32, 2, 48, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.positions
        out: Tensor = self.head(self.norm(self.block(tokens))[:, 0])
        return out


class SpatialTransformer(nn.Module):
    """A feature map resampled on a grid that the network itself predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(unit(3, 24), unit(24, 24))
        self.offsets, self.head = conv(24, 2), conv(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        grid = self.offsets(x).tanh().permute(0, 2, 3, 1)
        out: Tensor = self.head(F.grid_sample(x, grid, align_corners=False))
        return out


class Res2Net(nn.Module):
    """Channels split in four; each part is convolved with the sum of itself and the part before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = unit(3, 48, 1), conv(48, 8, 1)
        self.parts = nn.ModuleList(unit(12, 12) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = torch.split(self.stem(x), 12, dim=1)
        done = [first]
        for part, layer in zip(rest, self.parts, strict=True):
            done.append(layer(part + done[-1]))
        out: Tensor = self.head(torch.cat(done, dim=1))
        return out


def _standardised() -> nn.Module:
    layers = [StandardConv2d(3, 24, 3), nn.GroupNorm(4, 24), nn.ReLU(), StandardConv2d(24, 32, 3), nn.ReLU()]
    return nn.Sequential(*layers, conv(32, 8))


def _weight_norm() -> nn.Module:
    layers = [parametrizations.weight_norm(conv(3, 24)), nn.ReLU(), parametrizations.weight_norm(conv(24, 32))]
    return nn.Sequential(*layers, nn.ReLU(), conv(32, 8))


def _pixel_shuffle() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 96), nn.PixelShuffle(2), nn.BatchNorm2d(24), conv(24, 3))


def _pixel_unshuffle() -> nn.Module:
    return nn.Sequential(
        conv(3, 12), nn.PReLU(12), nn.PixelUnshuffle(2), conv(48, 24), nn.InstanceNorm2d(24, affine=True), conv(24, 8)
    )


_TABLE: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...]], ...] = (
    ("flatten_hwc", lambda: Flatten((2, 3, 1)), (3, 4, 3)),
    ("flatten_chw", lambda: Flatten((1, 2, 3)), (3, 4, 3)),
    ("flatten_tokens", FlattenTokens, (6, 24)),
    ("patch_merging", PatchMerging, (3, 16, 16)),
    ("c2f", C2f, (3, 8, 8)),
    ("densenet", DenseNet, (3, 8, 8)),
    ("channel_shuffle", ChannelShuffle, (3, 6, 6)),
    ("squeeze_excite", SqueezeExcite, (3, 6, 6)),
    ("unet_straddling_groups", StraddlingUNet, (3, 8, 8)),
    ("weight_standardisation", _standardised, (3, 6, 6)),
    ("weight_norm", _weight_norm, (3, 6, 6)),
    ("grouped_and_depthwise", ResNeXt, (3, 6, 6)),
    ("pixel_shuffle", _pixel_shuffle, (3, 4, 4)),
    ("pixel_unshuffle", _pixel_unshuffle, (3, 8, 8)),
    ("conv_transpose", Generator, (3, 3, 3)),
    ("layer_scale", LayerScale, (3, 16, 16)),
    ("long_skip", LongSkip, (6, 24)),
    ("latent_autoencoder", LatentAutoencoder, (3, 8, 8)),
    ("patch_embedding", PatchEmbedding, (3, 8, 8)),
    ("spatial_transformer", SpatialTransformer, (3, 6, 6)),
    ("res2net_split", Res2Net, (3, 6, 6)),
)

ENTRIES: tuple[Entry, ...] = tuple(
    entry(name, "peer_failures", model, tensors(normal(2, *size))) for name, model, size in _TABLE
)
"""Every entry of this file."""
