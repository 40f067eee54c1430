import sys

import pytest
import torch

from graphopt.demo.digits import load_digits
from graphopt.errors import MissingExtraError


def test_parts_have_the_sizes_asked_for_and_cover_all_digits() -> None:
    digits = load_digits(held_out=300)
    assert (len(digits.train), len(digits.held_out)) == (1497, 300)
    assert digits.train.images.shape == (1497, 1, 8, 8)
    whole = torch.cat([digits.train.images, digits.held_out.images])
    assert (float(whole.min()), float(whole.max())) == (-1.0, 1.0)
    counts = torch.cat([digits.train.labels, digits.held_out.labels]).bincount()
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_choice_depends_on_the_seed_alone() -> None:
    first, again, other = (load_digits(seed=seed).held_out.labels for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"graphopt\[dev\]"):
        load_digits()
