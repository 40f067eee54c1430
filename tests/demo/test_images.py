import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graphopt.demo.images import LABEL_WIDTH, MARGIN, SCALE, write_grid
from graphopt.errors import MissingExtraError


def test_grid_has_every_image_in_its_place(tmp_path: Path) -> None:
    rows = {name: torch.full((3, 1, 8, 8), -1.0) for name in ("first", "second")}
    rows["second"][1, 0, 2, 5] = 1.0
    rows["first"][2, 0, 0, 0] = 0.0
    write_grid(rows, tmp_path / "grid.png")
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    cell = 8 + 2 * MARGIN
    assert pixels.shape == (2 * cell * SCALE, (LABEL_WIDTH + 3 * cell) * SCALE)
    small = pixels[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE][:, LABEL_WIDTH:]
    inked = {(int(row), int(column)): int(small[row, column]) for row, column in np.argwhere(small < 255)}
    assert inked == {
        (MARGIN, 2 * cell + MARGIN): 128,
        (cell + MARGIN + 2, cell + MARGIN + 5): 0,
    }


def test_rows_are_named(tmp_path: Path) -> None:
    write_grid({"original": torch.full((1, 1, 8, 8), -1.0)}, tmp_path / "grid.png")
    labels = np.asarray(Image.open(tmp_path / "grid.png"))[:, : LABEL_WIDTH * SCALE]
    assert int(labels.min()) < 64


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"graphopt\[dev\]"):
        write_grid({"original": torch.zeros(1, 1, 8, 8)}, tmp_path / "grid.png")
    assert list(tmp_path.iterdir()) == []
