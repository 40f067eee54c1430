from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from graphopt.demo.cache import Trained, trained

CONFIG = {"steps": 3, "rate": 1e-3}
WEIGHTS = {"a": torch.arange(6.0).view(2, 3).t(), "b": torch.tensor([1, 2])}


def training(calls: list[int]) -> Callable[[], Trained]:
    def train() -> Trained:
        calls.append(1)
        return Trained(WEIGHTS, {"loss": 0.25})

    return train


def forbidden() -> Trained:
    pytest.fail("trained although the weights are in the cache")


def test_a_hit_equals_what_was_trained(tmp_path: Path) -> None:
    made = trained(tmp_path / "new", "model", CONFIG, training([]))
    found = trained(tmp_path / "new", "model", CONFIG, forbidden)
    assert found.figures == made.figures == {"loss": 0.25}
    assert sorted(found.tensors) == ["a", "b"]
    assert all(torch.equal(found.tensors[name], WEIGHTS[name]) for name in WEIGHTS)


def test_another_configuration_or_name_is_another_file(tmp_path: Path) -> None:
    calls: list[int] = []
    for name, config in (("model", CONFIG), ("model", {**CONFIG, "steps": 4}), ("judge", CONFIG), ("model", CONFIG)):
        trained(tmp_path, name, config, training(calls))
    assert len(calls) == 3
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


@pytest.mark.parametrize("damage", ["cut", "strange", "empty"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: str) -> None:
    trained(tmp_path, "model", CONFIG, training([]))
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-8], "strange": content.replace(b"steps", b"stops"), "empty": b""}[damage])
    calls: list[int] = []
    trained(tmp_path, "model", CONFIG, training(calls))
    assert len(calls) == 1
    assert path.read_bytes() == content


def test_nothing_is_left_when_training_fails(tmp_path: Path) -> None:
    def fail() -> Trained:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "model", CONFIG, fail)
    assert list(tmp_path.iterdir()) == []
