"""Image, geometry and physics models written out from their papers.

References:
    Peebles & Xie, DiT, arXiv 2212.09748; Bao et al., U-ViT, arXiv 2209.12152; Zhu et al., CycleGAN, arXiv 1703.10593;
    Isola et al., Pix2Pix, arXiv 1611.07004; Karras et al., StyleGAN2, arXiv 1912.04958; Mildenhall et al., NeRF,
    arXiv 2003.08934; Qi et al., PointNet, arXiv 1612.00593; van den Oord et al., VQ-VAE, arXiv 1711.00937; Li et al.,
    FNO, arXiv 2010.08895; Sabour et al., capsules, arXiv 1710.09829; Shi et al., ESPCN, arXiv 1609.05158.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.catalogue import Entry, entry, integers, normal, tensors

WIDTH, HEADS = 48, 4


def _attend(qkv: Tensor) -> Tensor:
    """From (batch, tokens, 3 x heads x head_dim) to (batch, tokens, heads x head_dim)."""
    batch, tokens, _ = qkv.shape
    query, key, value = qkv.view(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, tokens, -1)


def _waves(time: Tensor, width: int) -> Tensor:
    """Sinusoidal features of a time. (batch,) -> (batch, width)."""
    angles = time[:, None] * torch.exp(-math.log(10000.0) * torch.arange(width // 2) / (width // 2))
    return torch.cat([torch.cos(angles), torch.sin(angles)], -1)


class ModulatedBlock(nn.Module):
    """DiT's block: a condition shifts, scales and gates attention and feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, elementwise_affine=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 96), nn.GELU(approximate="tanh"), nn.Linear(96, WIDTH))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        x = x + gate * self.out(_attend(self.qkv(self.norms[0](x) * (1 + scale) + shift)))
        return x + gate2 * self.mlp(self.norms[1](x) * (1 + scale2) + shift2)


class DiffusionTransformer(nn.Module):
    """DiT: patches, time and class as condition, the noise and its variance as output."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.positions = nn.Conv2d(4, WIDTH, 2, stride=2), nn.Parameter(torch.randn(1, 16, WIDTH))
        self.time = nn.Sequential(nn.Linear(32, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.label = nn.Embedding(11, WIDTH)
        self.blocks = nn.ModuleList(ModulatedBlock() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH))
        self.head = nn.Linear(WIDTH, 2 * 2 * 8)

    def forward(self, image: Tensor, time: Tensor, label: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2) + self.positions
        condition = self.time(_waves(time.float(), 32)) + self.label(label)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, -1)
        x = self.head(self.norm(x) * (1 + scale) + shift).view(-1, 4, 4, 2, 2, 8)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(-1, 8, 8, 8)


class SkipTransformer(nn.Module):
    """U-ViT: time is a token, and the second half reads the first half's outputs through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.positions = nn.Conv2d(3, WIDTH, 4, stride=4), nn.Parameter(torch.randn(1, 17, WIDTH))
        self.down, self.middle, self.up = self._blocks(2), self._blocks(1)[0], self._blocks(2)
        self.joins = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(2))
        self.norm, self.head, self.final = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 48), nn.Conv2d(3, 3, 3, padding=1)

    @staticmethod
    def _blocks(count: int) -> nn.ModuleList:
        return nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 96, batch_first=True, norm_first=True) for _ in range(count)
        )

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([_waves(time.float(), WIDTH)[:, None], tokens], 1) + self.positions
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
        x = self.middle(x)
        for join, block in zip(self.joins, self.up, strict=True):
            x = block(join(torch.cat([x, kept.pop()], -1)))
        x = self.head(self.norm(x))[:, 1:].view(-1, 4, 4, 4, 4, 3).permute(0, 5, 1, 3, 2, 4)
        out: Tensor = self.final(x.reshape(-1, 3, 16, 16))
        return out


class ResidualTranslator(nn.Module):
    """CycleGAN's generator: reflected borders, instance norms, residual blocks between down and up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, 16, 7), nn.InstanceNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.InstanceNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReflectionPad2d(1), nn.Conv2d(32, 32, 3), nn.InstanceNorm2d(32), nn.ReLU(),
                nn.ReflectionPad2d(1), nn.Conv2d(32, 32, 3), nn.InstanceNorm2d(32),
            )
            for _ in range(2)
        )  # fmt: skip
        self.up = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1), nn.InstanceNorm2d(16), nn.ReLU(),
            nn.ReflectionPad2d(3), nn.Conv2d(16, 3, 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        x = self.down(image)
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.up(x)
        return out


class NestedTranslator(nn.Module):
    """Pix2Pix's U-Net, each level around the next, its own input concatenated to its output."""

    def __init__(self, outer: int = 3, widths: tuple[int, ...] = (16, 32, 48)) -> None:
        super().__init__()
        width, *deeper = widths
        self.down = nn.Conv2d(outer, width, 4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.inner = NestedTranslator(width, tuple(deeper)) if deeper else None
        self.up = nn.ConvTranspose2d(2 * width if deeper else width, outer, 4, stride=2, padding=1)
        self.norm_up = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.down(F.leaky_relu(x, 0.2)))
        if self.inner is not None:
            inner = self.inner(inner)
        return torch.cat([x, self.norm_up(self.up(F.relu(inner)))], 1)


class ModulatedConvolution(nn.Module):
    """StyleGAN2: a style scales the weight's inputs, the weight is normalised, one grouped convolution runs all."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.randn(outer, inner, 3, 3)), nn.Linear(24, inner)
        self.noise, self.bias = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(outer))

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        weight = self.weight[None] * self.style(latent)[:, None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum([2, 3, 4], keepdim=True) + 1e-8)
        x = F.conv2d(x.reshape(1, -1, height, width), weight.reshape(-1, channels, 3, 3), padding=1, groups=batch)
        return F.leaky_relu(x.view(batch, -1, height, width) + self.bias[:, None, None], 0.2)


class StyleGenerator(nn.Module):
    """A mapping network, a learned constant, modulated convolutions and a picture summed over sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 24), nn.LeakyReLU(0.2))
        self.constant = nn.Parameter(torch.randn(1, 32, 4, 4))
        self.convolutions = nn.ModuleList([ModulatedConvolution(32, 24), ModulatedConvolution(24, 16)])
        self.pictures = nn.ModuleList([nn.Conv2d(24, 3, 1), nn.Conv2d(16, 3, 1)])

    def forward(self, noise: Tensor) -> Tensor:
        latent = self.mapping(noise * torch.rsqrt(noise.square().mean(1, keepdim=True) + 1e-8))
        x = self.constant.expand(noise.shape[0], -1, -1, -1)
        picture: Tensor | None = None
        for convolve, paint in zip(self.convolutions, self.pictures, strict=True):
            x = F.interpolate(convolve(x, latent), scale_factor=2.0, mode="bilinear")
            painted: Tensor = paint(x)
            picture = painted if picture is None else painted + F.interpolate(picture, scale_factor=2.0)
        assert picture is not None
        return picture


class Radiance(nn.Module):
    """NeRF's field: waves of the position, a skip into the middle, density, and a colour that sees the direction."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList([nn.Linear(39, 48), nn.Linear(48, 48)])
        self.second = nn.ModuleList([nn.Linear(48 + 39, 48), nn.Linear(48, 48)])
        self.density, self.features = nn.Linear(48, 1), nn.Linear(48, 48)
        self.colour = nn.Sequential(nn.Linear(48 + 15, 24), nn.ReLU(), nn.Linear(24, 3), nn.Sigmoid())

    @staticmethod
    def waves(x: Tensor, bands: int) -> Tensor:
        angles = (x[..., None, :] * 2.0 ** torch.arange(bands)[:, None]).flatten(-2)
        return torch.cat([x, torch.sin(angles), torch.cos(angles)], -1)

    def forward(self, position: Tensor, direction: Tensor) -> Tensor:
        waves = self.waves(position, 6)
        x = waves
        for layer in self.first:
            x = F.relu(layer(x))
        x = torch.cat([waves, x], -1)
        for layer in self.second:
            x = F.relu(layer(x))
        colour = self.colour(torch.cat([self.features(x), self.waves(direction, 2)], -1))
        return torch.cat([colour, F.relu(self.density(x))], -1)


class PointCloud(nn.Module):
    """PointNet: a predicted rotation of the points and one of the features, shared layers, a maximum over points."""

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.bend = self._transform(3), self._transform(24)
        self.early = nn.Sequential(nn.Conv1d(3, 24, 1), nn.BatchNorm1d(24), nn.ReLU())
        self.late = nn.Sequential(nn.Conv1d(24, 64, 1), nn.BatchNorm1d(64), nn.ReLU(), nn.Conv1d(64, 96, 1))
        self.head = nn.Sequential(nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 10))

    @staticmethod
    def _transform(size: int) -> nn.ModuleList:
        points = nn.Sequential(nn.Conv1d(size, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 48, 1), nn.ReLU())
        return nn.ModuleList([points, nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, size * size))])

    @staticmethod
    def _turned(transform: nn.Module, x: Tensor) -> Tensor:
        points, matrix = transform.children()
        size = x.shape[1]
        turn = matrix(points(x).amax(2)).view(-1, size, size) + torch.eye(size)
        return torch.bmm(x.transpose(1, 2), turn).transpose(1, 2)

    def forward(self, points: Tensor) -> Tensor:
        x = self._turned(self.bend, self.early(self._turned(self.turn, points)))
        out: Tensor = self.head(self.late(x).amax(2))
        return out


class QuantisedAutoencoder(nn.Module):
    """VQ-VAE: the nearest code by squared distance, passed straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 24, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(24, 16, 3, padding=1)
        )
        self.codes = nn.Embedding(32, 16)
        self.decoder = nn.Sequential(
            nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(24, 3, 4, stride=2, padding=1)
        )

    def forward(self, image: Tensor) -> Tensor:
        latent = self.encoder(image).permute(0, 2, 3, 1)
        flat = latent.reshape(-1, 16)
        codes = self.codes.weight
        distance = flat.square().sum(1, keepdim=True) - 2 * flat @ codes.t() + codes.square().sum(1)
        chosen = self.codes(distance.argmin(1)).view(latent.shape)
        chosen = latent + (chosen - latent).detach()
        out: Tensor = self.decoder(chosen.permute(0, 3, 1, 2))
        return out


class FourierOperator(nn.Module):
    """FNO: in each layer the lowest frequencies are mixed by complex weights, beside a pointwise linear layer."""

    def __init__(self, modes: int = 5) -> None:
        super().__init__()
        self.modes = modes
        self.lift, self.lower = nn.Linear(3, 24), nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 1))
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(2, 24, 24, modes, modes, 2)) for _ in range(2))
        self.beside = nn.ModuleList(nn.Conv2d(24, 24, 1) for _ in range(2))

    def forward(self, field: Tensor) -> Tensor:
        x = self.lift(field).permute(0, 3, 1, 2)
        for weight, beside in zip(self.weights, self.beside, strict=True):
            x = F.gelu(self._spectral(x, torch.view_as_complex(weight)) + beside(x))
        out: Tensor = self.lower(x.permute(0, 2, 3, 1))
        return out

    def _spectral(self, x: Tensor, weight: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        spectrum, modes = torch.fft.rfft2(x), self.modes
        low = torch.einsum("bihw,iohw->bohw", spectrum[:, :, :modes, :modes], weight[0])
        high = torch.einsum("bihw,iohw->bohw", spectrum[:, :, -modes:, :modes], weight[1])
        middle = torch.zeros(x.shape[0], 24, height - 2 * modes, modes, dtype=spectrum.dtype)
        kept = F.pad(torch.cat([low, middle, high], 2), (0, width // 2 + 1 - modes))
        return torch.fft.irfft2(kept, s=(height, width))


class Capsules(nn.Module):
    """Capsules that agree on the next layer's by three rounds of routing; their lengths are the class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.primary = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 8 * 8, 5, stride=2)
        self.votes = nn.Parameter(torch.randn(8 * 9, 10, 12, 8))

    @staticmethod
    def squash(x: Tensor) -> Tensor:
        square = x.square().sum(-1, keepdim=True)
        return square / (1 + square) * x * torch.rsqrt(square + 1e-6)

    def forward(self, image: Tensor) -> Tensor:
        low = self.primary(F.relu(self.stem(image)))
        low = self.squash(low.unflatten(1, (8, 8)).flatten(3).transpose(2, 3).flatten(1, 2))
        votes = torch.einsum("ijdk,bik->bijd", self.votes, low)
        agreement = torch.zeros_like(votes[..., 0])
        for _ in range(3):
            high = self.squash((agreement.softmax(2)[..., None] * votes).sum(1))
            agreement = agreement + (votes * high[:, None]).sum(-1)
        return high.square().sum(-1).sqrt()


class SubPixel(nn.Sequential):
    """ESPCN: convolutions at the small size, then a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 5, padding=2), nn.Tanh(), nn.Conv2d(32, 24, 3, padding=1), nn.Tanh(),
            nn.Conv2d(24, 9, 3, padding=1), nn.PixelShuffle(3),
        )  # fmt: skip


ENTRIES: tuple[Entry, ...] = tuple(
    entry(f"paper-{name}", "others", model, inputs)
    for name, model, inputs in (
        ("dit", DiffusionTransformer, tensors(normal(2, 4, 8, 8), integers(100, 2), integers(10, 2))),
        ("uvit", SkipTransformer, tensors(normal(2, 3, 16, 16), integers(100, 2))),
        ("cyclegan", ResidualTranslator, tensors(normal(2, 3, 16, 16))),
        ("pix2pix", NestedTranslator, tensors(normal(2, 3, 16, 16))),
        ("stylegan2", StyleGenerator, tensors(normal(2, 16))),
        ("nerf", Radiance, tensors(normal(2, 10, 3), normal(2, 10, 3))),
        ("pointnet", PointCloud, tensors(normal(2, 3, 20))),
        ("vqvae", QuantisedAutoencoder, tensors(normal(2, 3, 16, 16))),
        ("fno", FourierOperator, tensors(normal(2, 16, 16, 3))),
        ("capsules", Capsules, tensors(normal(2, 1, 14, 14))),
        ("espcn", SubPixel, tensors(normal(2, 1, 8, 8))),
    )
)
"""Every entry of this file."""
