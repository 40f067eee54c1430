"""Line charts as SVG, on logarithmic axes of base two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 420, 320
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 34, 40
COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8d6a9f", "#c98a1b", "#444444")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Some lines in one frame.

    Attributes:
        title: above it.
        lines: points by name; the coordinates are above 0.
        ideal: a thin line to compare with.
    """

    title: str
    lines: Mapping[str, Points]
    ideal: Points

    def elements(self) -> list[str]:
        """Return what it consists of, with its upper left corner at 0."""
        frame = _Frame.around([point for line in (*self.lines.values(), self.ideal) for point in line])
        parts = [_text(WIDTH / 2, 18, self.title, "middle", 13), *frame.grid()]
        parts.append(f'<polyline points="{frame.path(self.ideal)}" fill="none" stroke="#bbb" stroke-dasharray="4 3"/>')
        for number, (name, line) in enumerate(self.lines.items()):
            colour = COLOURS[number % len(COLOURS)]
            parts.append(f'<polyline points="{frame.path(line)}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in map(frame.place, line)]
            parts.append(_text(LEFT + 8, TOP + 14 + 14 * number, name, "start", 11, colour))
        parts.append(_text(WIDTH / 2, HEIGHT - 8, "devices", "middle", 11))
        parts.append(_text(12, TOP - 8, "speed-up", "start", 11))
        return parts


def figure(charts: Sequence[Chart], columns: int = 2) -> str:
    """Return charts beside and below each other as one SVG file.

    Args:
        charts: the charts.
        columns: how many stand beside each other.
    """
    rows = math.ceil(len(charts) / columns)
    width, height = WIDTH * min(columns, len(charts)), HEIGHT * rows
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for number, chart in enumerate(charts):
        x, y = WIDTH * (number % columns), HEIGHT * (number // columns)
        parts += [f'<g transform="translate({x} {y})">', *chart.elements(), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class _Frame:
    """Where a point comes to lie; logarithms of base two."""

    low: tuple[int, int]
    high: tuple[int, int]

    @classmethod
    def around(cls, points: Points) -> _Frame:
        logarithms = [(math.log2(x), math.log2(y)) for x, y in points]
        low = tuple(math.floor(min(point[axis] for point in logarithms)) for axis in (0, 1))
        high = tuple(math.ceil(max(point[axis] for point in logarithms)) for axis in (0, 1))
        return cls((low[0], low[1]), (max(high[0], low[0] + 1), max(high[1], low[1] + 1)))

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        across = (math.log2(point[0]) - self.low[0]) / (self.high[0] - self.low[0])
        up = (math.log2(point[1]) - self.low[1]) / (self.high[1] - self.low[1])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Points) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.place, points))

    def grid(self) -> list[str]:
        """Lines at powers of two, with their numbers."""
        parts = []
        for power in range(self.low[0], self.high[0] + 1):
            x, _ = self.place((2.0**power, 2.0 ** self.low[1]))
            parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>')
            parts.append(_text(x, HEIGHT - BOTTOM + 14, f"{2.0**power:g}", "middle", 10))
        for power in range(self.low[1], self.high[1] + 1):
            _, y = self.place((2.0 ** self.low[0], 2.0**power))
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#eee"/>')
            parts.append(_text(LEFT - 6, y + 3, f"{2.0**power:g}", "end", 10))
        return parts


def _text(x: float, y: float, text: str, anchor: str, size: int, colour: str = "#222") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"
