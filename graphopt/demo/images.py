"""Grids of generated digits as PNG files."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphopt.demo.packages import require
from graphopt.exporters.atomic import atomic_file

SCALE = 6
"""Pixels of the file per pixel of a digit."""

MARGIN = 2
"""Pixels of a digit's size left free around it."""

LABEL_WIDTH = 24
"""Width of the column of row names, in pixels of a digit."""


def write_grid(rows: Mapping[str, Tensor], path: Path) -> None:
    """Draw rows of digits under each other, each behind its name, and write them as a PNG file.

    Args:
        rows: Row name to images (count, 1, height, width) in [-1, 1]; as many in each row.
        path: The ``.png`` file; its folder must exist.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    image_module, draw_module = require("PIL.Image"), require("PIL.ImageDraw")
    strips = torch.cat([_strip(images) for images in rows.values()])
    canvas = torch.cat([strips.new_full((len(strips), LABEL_WIDTH), 1.0), strips], dim=1)
    pixels = canvas.repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1).mul(255).round()
    picture = image_module.fromarray(pixels.numpy().astype(np.uint8))
    height = len(strips) // len(rows) * SCALE
    pen = draw_module.Draw(picture)
    for row, name in enumerate(rows):
        pen.text((MARGIN * SCALE, (row + 0.5) * height), name, fill=0, anchor="lm", font_size=3 * SCALE)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    atomic_file(path, file.getvalue())


def _strip(images: Tensor) -> Tensor:
    """Put images side by side on white, ink dark: (height + margins, count * (width + margins)) in [0, 1]."""
    ink = torch.nn.functional.pad((images[:, 0].clamp(-1, 1) + 1) / 2, (MARGIN,) * 4)
    return 1 - ink.permute(1, 0, 2).flatten(1)
