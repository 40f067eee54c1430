"""Saving through the class's own methods."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from restoring.models import Configured, Model, seeded
from safetensors.torch import load_file, save_file
from torch import nn

import graphopt
from graphopt.errors import GraphoptError

ALIKE = "prune-channels{ratio=0.5,importance=random,uniform_per_layer=true}"


class Library(Model):
    """A class that is built from a configuration, and saves and loads itself."""

    def __init__(self, config: Any) -> None:
        self_config = SimpleNamespace(**vars(config))
        super().__init__([Configured(self_config) for _ in range(config.layers)], config.width)
        self.config = self_config

    def save_pretrained(self, folder: str | Path) -> None:
        Path(folder, "config.json").write_text(json.dumps(vars(self.config)), encoding="utf-8")
        save_file(self.state_dict(), Path(folder, "model.safetensors"))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Library":
        config = SimpleNamespace(**json.loads(Path(folder, "config.json").read_text(encoding="utf-8")))
        model = cls(config)
        model.load_state_dict(load_file(Path(folder, "model.safetensors")))
        return model


def library() -> nn.Module:
    return seeded(lambda: Library(SimpleNamespace(width=32, heads=4, head_dim=8, layers=2)))


def test_one_configuration_for_all_layers_is_found_and_saved(tmp_path: Path) -> None:
    model, x = library(), torch.randn(3, 6, 12)
    result = graphopt.optimize(model, (x,), passes=ALIKE, context=graphopt.PassContext(seed=0, verify=False))
    saved = result.save_pretrained(tmp_path / "small", model)
    assert saved.reason == ""
    assert (saved.form, saved.path) == ("pretrained", tmp_path / "small")
    loaded = Library.from_pretrained(tmp_path / "small")
    assert loaded.config.width == 16
    assert loaded.config.layers == 2
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), result.program(x), rtol=1e-4, atol=1e-5)


def test_layers_of_several_sizes_go_into_the_folder_of_graphopt(tmp_path: Path) -> None:
    model, x = library(), torch.randn(3, 6, 12)
    spec = 'prune-channels{ratio=0,importance=random,ratios=["blocks.0.mixer.*=0.5"]}'
    result = graphopt.optimize(model, (x,), passes=spec, context=graphopt.PassContext(seed=0, verify=False))
    saved = result.save_pretrained(tmp_path / "small", model)
    assert saved.form == "graphopt"
    assert "no configuration describes the result: blocks." in saved.reason
    assert "uniform_per_layer=true" in saved.reason
    again = graphopt.load(tmp_path / "small", model)
    assert torch.equal(again.program(x), result.program(x))


def test_a_class_without_a_configuration_says_so(tmp_path: Path) -> None:
    model, x = (
        seeded(lambda: Model([Configured(SimpleNamespace(width=32, heads=4, head_dim=8))])),
        torch.randn(3, 6, 12),
    )
    result = graphopt.optimize(model, (x,), passes=ALIKE, context=graphopt.PassContext(seed=0, verify=False))
    saved = result.save_pretrained(tmp_path / "small", model)
    assert (saved.form, saved.reason) == ("graphopt", "Model has no save_pretrained and from_pretrained")


def test_the_folder_of_a_class_is_told_from_that_of_graphopt(tmp_path: Path) -> None:
    model, x = library(), torch.randn(3, 6, 12)
    result = graphopt.optimize(model, (x,), passes=ALIKE, context=graphopt.PassContext(seed=0, verify=False))
    result.save_pretrained(tmp_path / "small", model)
    with pytest.raises(GraphoptError, match="from_pretrained"):
        graphopt.load(tmp_path / "small", model)
