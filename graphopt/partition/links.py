"""Links between devices: how long a message takes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import PlanError


@dataclass(frozen=True)
class Link:
    """Time of a message: a constant part and one that grows with its bytes.

    Attributes:
        latency_seconds: time of an empty message.
        bytes_per_second: how fast the rest goes.
    """

    latency_seconds: float
    bytes_per_second: float

    def __post_init__(self) -> None:
        """Refuse what is no link.

        Raises:
            PlanError: the latency is negative or the bandwidth not positive.
        """
        if not (0 <= self.latency_seconds < math.inf and self.bytes_per_second > 0):
            raise PlanError(
                f"found a link of {self.latency_seconds} s latency and {self.bytes_per_second} bytes a second, wanted "
                "a latency of 0 or more and a bandwidth above 0"
            )

    def seconds(self, size_bytes: float, messages: float = 1) -> float:
        """Return the time of some messages with so many bytes in all."""
        return self.latency_seconds * messages + size_bytes / self.bytes_per_second


DEFAULT_LINK = Link(50e-6, 1.2e9)
"""What is assumed where nothing was measured: a local process over gloo, 50 microseconds and 1.2 GB a second."""


@dataclass(frozen=True)
class LinkTable:
    """Links of all ordered pairs of devices.

    Attributes:
        default: link of the pairs that are not named.
        pairs: links by source and target.
    """

    default: Link = DEFAULT_LINK
    pairs: Mapping[tuple[int, int], Link] = field(default_factory=dict)

    def link(self, source: int, target: int) -> Link:
        """Return the link from one device to another."""
        return self.pairs.get((source, target), self.default)

    def is_uniform(self, devices: int) -> bool:
        """Tell whether all pairs among so many devices have equal links."""
        return len({self.link(*pair) for pair in _pairs(devices)}) <= 1

    def slowest_into(self, device: int, devices: int) -> Link:
        """Return a link that no link into a device is slower than in any respect."""
        return _extreme(
            [self.link(other, device) for other in range(devices) if other != device], self.default, max, min
        )

    def fastest_into(self, device: int, devices: int) -> Link:
        """Return a link that no link into a device is faster than in any respect."""
        return _extreme(
            [self.link(other, device) for other in range(devices) if other != device], self.default, min, max
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        pairs = [{"source": a, "target": b, **asdict(link)} for (a, b), link in sorted(self.pairs.items())]
        return {"default": asdict(self.default), "pairs": pairs}

    @classmethod
    def from_dict(cls, data: Any) -> LinkTable:
        """Read the JSON form: ``{"default": {"latency_seconds", "bytes_per_second"}, "pairs": [...]}``.

        Raises:
            PlanError: it is none.
        """
        try:
            default = _read_link(data["default"]) if "default" in data else DEFAULT_LINK
            pairs = {(int(pair["source"]), int(pair["target"])): _read_link(pair) for pair in data.get("pairs", ())}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(
                f"the table of links is damaged: {type(error).__name__} at {error}; wanted "
                '{"default": {"latency_seconds": s, "bytes_per_second": b}, "pairs": [{"source": i, "target": j, ...}]}'
            ) from error
        return cls(default, pairs)


def load_links(path: str | Path | None) -> LinkTable:
    """Read a table of links from a JSON file; without a path every pair has `DEFAULT_LINK`.

    Raises:
        PlanError: there is no such file, or it holds no table of links.
    """
    if path is None:
        return LinkTable()
    try:
        data = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise PlanError(f"cannot read links from {str(path)!r}: {error}; wanted a JSON file") from error
    return LinkTable.from_dict(data)


def fit_link(samples: Iterable[tuple[float, float]]) -> Link:
    """Return the link that explains measured messages best.

    Args:
        samples: bytes and seconds of one-way messages, of two or more different sizes. Relative errors count, so that
            short messages decide the latency as much as long ones decide the bandwidth; neither gets negative.

    Raises:
        PlanError: fewer than two sizes, or times that are not positive.
    """
    points = [(float(size), float(seconds)) for size, seconds in samples]
    if len({size for size, _ in points}) < 2 or any(size < 0 or not seconds > 0 for size, seconds in points):
        raise PlanError(f"found the samples {points}, wanted (bytes, seconds > 0) of two sizes or more")
    sizes, seconds = np.array(points).T
    latency, per_byte = _least_squares(sizes, seconds)
    return Link(latency, 1 / per_byte if per_byte > 0 else math.inf)


def _least_squares(sizes: Any, seconds: Any) -> tuple[float, float]:
    """Non-negative least squares of relative errors in two unknowns: the inner solution, else the better border."""
    matrix = np.stack([1 / seconds, sizes / seconds], axis=1)
    target = np.ones(len(seconds))
    inner, *_ = np.linalg.lstsq(matrix, target, rcond=None)
    if (inner >= 0).all():
        return float(inner[0]), float(inner[1])
    borders = []
    for column in range(2):
        amount = max(0.0, float(matrix[:, column] @ target) / float(matrix[:, column] @ matrix[:, column]))
        solution = np.zeros(2)
        solution[column] = amount
        borders.append((float(np.square(matrix @ solution - target).sum()), solution))
    _, best = min(borders, key=lambda border: border[0])
    return float(best[0]), float(best[1])


def _pairs(devices: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(devices) for b in range(devices) if a != b]


def _extreme(links: Sequence[Link], default: Link, latency: Any, bandwidth: Any) -> Link:
    known = links or [default]
    return Link(latency(link.latency_seconds for link in known), bandwidth(link.bytes_per_second for link in known))


def _read_link(data: Mapping[str, Any]) -> Link:
    return Link(float(data["latency_seconds"]), float(data["bytes_per_second"]))
