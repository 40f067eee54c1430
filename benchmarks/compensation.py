"""Accuracy of pruned transformers with and without compensated statistics, on scikit-learn's digits.

    python benchmarks/compensation.py [--seeds 3] [--norms rms layer]

Trains a small transformer with RMS norms and one with LayerNorms from each seed, prunes it in one shot by magnitude and
by Taylor scores, and prints the held-out accuracy as it is then and after a short training, the mean over the seeds
with the spread. First comes the time of an MLP behind a LayerNorm that is written out, over the fused one's: the median
ratio of interleaved rounds.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

import graphopt
from graphopt.demo.digits import Digits, LabelledImages, load_digits
from graphopt.measure import compare_latency

WIDTH, DEPTH, HEADS, CLASSES = 64, 3, 4, 10
STEPS, RECOVERY, BATCH = 300, 30, 128
NORMS: dict[str, type[nn.Module]] = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}
WAYS = {"rms": ("none", "scale"), "layer": ("none", "exact")}


class Block(nn.Module):
    """Attention and MLP behind a norm each."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(WIDTH, eps=1e-6) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, tokens, width)``."""
        batch, tokens, _ = x.shape
        heads = self.qkv(self.norms[0](x)).view(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads.unbind(0)).transpose(1, 2)
        x = x + self.out(mixed.reshape(batch, tokens, WIDTH))
        added: Tensor = x + self.down(functional.gelu(self.up(self.norms[1](x))))
        return added


class Classifier(nn.Module):
    """Rows of two by two pixels as tokens, a class from their mean."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.embed, self.places = nn.Conv2d(1, WIDTH, 2, stride=2), nn.Parameter(0.1 * torch.randn(16, WIDTH))
        self.blocks = nn.Sequential(*(Block(norm) for _ in range(DEPTH)))
        self.norm, self.head = norm(WIDTH, eps=1e-6), nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """``images: (batch, 1, 8, 8)``; returns ``(batch, classes)``."""
        x = self.embed(images).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits


def train(model: nn.Module, data: LabelledImages, steps: int, rate: float, seed: int) -> None:
    """Minimise the cross entropy."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        chosen = torch.randint(len(data), (BATCH,), generator=generator)
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        functional.cross_entropy(model(data.images[chosen]), data.labels[chosen]).backward()
        optimiser.step()


def accuracy(model: nn.Module, data: LabelledImages) -> float:
    """Share of images whose digit is found."""
    with torch.no_grad():
        return float((model(data.images).argmax(1) == data.labels).float().mean())


def loss(output: Tensor, batch: graphopt.Batch) -> Tensor:
    """Cross entropy, for Taylor scores."""
    return functional.cross_entropy(output, batch.target)


def pruned(program: graphopt.Program, spec: str, digits: Digits, seed: int) -> tuple[float, float]:
    """Accuracy in one shot, and after a short training."""
    batches = [
        graphopt.Batch(
            args=(digits.train.images[start : start + BATCH],), target=digits.train.labels[start : start + BATCH]
        )
        for start in range(0, 512, BATCH)
    ]
    context = graphopt.PassContext(calibration=batches, loss=loss, seed=seed, verify=False)
    module = graphopt.Pipeline(spec).run(program, context).module()
    before = accuracy(module, digits.held_out)
    train(module, digits.train, RECOVERY, 1e-3, seed)
    return before, accuracy(module, digits.held_out)


def rows(kind: str, seeds: int) -> Iterator[str]:
    """The lines of the table."""
    digits = load_digits()
    specs = [
        (score, axes, ratio)
        for score in ("magnitude", "taylor")
        for axes, ratio in (("axes=[residual],", 0.25), ("axes=[residual],", 0.5), ("", 0.25), ("", 0.5))
    ]
    found: dict[tuple[str, str, float, str], list[tuple[float, float]]] = {}
    whole = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = Classifier(NORMS[kind])
        train(model, digits.train, STEPS, 3e-3, seed)
        program = graphopt.capture(model.eval(), (digits.held_out.images[:2],))
        whole.append(accuracy(model, digits.held_out))
        for score, axes, ratio in specs:
            for way in WAYS[kind]:
                spec = f"prune-channels{{ratio={ratio},importance={score},{axes}compensate={way}}}"
                found.setdefault((score, axes, ratio, way), []).append(pruned(program, spec, digits, seed))
    yield f"{kind} norms, unpruned {_mean(whole)}"
    for (score, axes, ratio, way), results in found.items():
        once, trained = zip(*results, strict=True)
        where = "residual" if axes else "all axes"
        yield f"  {score:9} {where:8} ratio {ratio:4} {way:5}  one shot {_mean(once)}  trained {_mean(trained)}"


def slowdown() -> Iterator[str]:
    """What a LayerNorm costs that is written out."""
    tokens = torch.randn(8, 196, 768)
    for name, hidden in (("LayerNorm between two maps of its width", 768), ("the same in an MLP", 3072)):
        layers = nn.Linear(768, 768), nn.LayerNorm(768), nn.Linear(768, hidden), nn.GELU(), nn.Linear(hidden, 768)
        program = graphopt.capture(nn.Sequential(*layers).eval(), (tokens,))
        modules = {
            way: graphopt.Pipeline(f"prune-channels{{ratio=0.5,compensate={way}}}").run(program).module()
            for way in ("none", "exact")
        }
        with torch.no_grad():
            times = compare_latency({way: functools.partial(module, tokens) for way, module in modules.items()})
        yield f"{name}: exact over none {times.ratios['exact']:.2f}"


def _mean(values: tuple[float, ...] | list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):5.1f} ± {100 * spread:4.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--norms", nargs="+", choices=tuple(NORMS), default=tuple(NORMS))
    chosen = parser.parse_args()
    for row in itertools.chain(slowdown(), *(rows(kind, chosen.seeds) for kind in chosen.norms)):
        print(row, flush=True)


if __name__ == "__main__":
    main()
