"""Frames of a video on several devices: ``python examples/video_clips.py``, and a model for the command line.

graphopt optimize examples/video_clips.py:build --passes 'partition{devices=2,mode=patch,axis="sample:2"}' --out out/
"""

import sys

import torch
from torch import Tensor, nn

import graphopt


class Spatial(nn.Module):
    """Convolution of each frame on its own, GroupNorm over all frames: ``(batch, channels, frames, height, width)``."""

    def __init__(self, channels: int, wider: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.convolution = nn.Conv3d(channels, wider, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``time: (batch, wider)``."""
        return self.convolution(nn.functional.silu(self.norm(x))) + time[:, :, None, None, None]


class TemporalConvolution(nn.Module):
    """Convolution over three frames, beside a way around."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.convolution = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Each frame reads the one before and the one after."""
        return x + self.convolution(nn.functional.silu(self.norm(x)))


class TemporalAttention(nn.Module):
    """Attention of every place over all frames, beside a way around."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Places are part of the batch, frames are tokens."""
        batch, channels, frames, height, width = x.shape
        tokens = x.permute(0, 3, 4, 2, 1).reshape(batch * height * width, frames, channels)
        split = self.qkv(self.norm(tokens)).reshape(-1, frames, 3, self.heads, channels // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        mixed = self.out(mixed.transpose(1, 2).reshape(-1, frames, channels))
        return x + mixed.reshape(batch, height, width, frames, channels).permute(0, 4, 3, 1, 2)


class TinyVideoUNet(nn.Module):
    """One level down, one up, with a skip; frames are never joined or thinned out."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, 2 * width))
        self.entry = nn.Conv3d(4, width, (1, 3, 3), padding=(0, 1, 1))
        self.down = Spatial(width, 2 * width)
        self.down_time = TemporalConvolution(2 * width)
        self.down_attention = TemporalAttention(2 * width, heads)
        self.up = Spatial(3 * width, 2 * width)
        self.up_time = TemporalConvolution(2 * width)
        self.up_attention = TemporalAttention(2 * width, heads)
        self.exit = nn.Conv3d(2 * width, 4, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """``sample: (batch, 4, frames, height, width)``, ``timestep: (batch,)``."""
        time = self.time(timestep[:, None] / 1000)
        entry = self.entry(sample)
        small = nn.functional.avg_pool3d(entry, (1, 2, 2))
        small = self.down_attention(self.down_time(self.down(small, time)))
        large = nn.functional.interpolate(small, scale_factor=(1.0, 2.0, 2.0))
        large = self.up(torch.cat([large, entry], 1), time)
        return self.exit(self.up_attention(self.up_time(large)))


def build(frames: int = 16) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A model and example inputs: ``frames`` latents of 8x8, with the condition and without."""
    torch.manual_seed(0)
    return TinyVideoUNet().eval(), (torch.randn(2, 4, frames, 8, 8), torch.tensor([500.0, 500.0]))


def main() -> None:
    """Compare clips that see everything, clips that see their surroundings, and the model on one device."""
    model, args = build()
    program = graphopt.capture(model, args)
    with torch.no_grad():
        wanted = model(*args)
        for scope in ("", ",local=2,total=4", ",local=16"):
            result = graphopt.Pipeline(f'partition{{devices=2,mode=patch,axis="sample:2"{scope}}}').run(program)
            difference = (graphopt.Emulation(result)(*args) - wanted).norm() / wanted.norm()
            sent = result.partition.phases["sync"].size_bytes
            peak = max(share.peak_bytes for share in result.partition.shares)
            sys.stdout.write(
                f"{scope[1:] or 'everything':<16} {difference:.1e} {sent:>9,} bytes sent {peak:>11,} at peak\n"
            )


if __name__ == "__main__":
    main()
