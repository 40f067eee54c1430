"""A small model in a file of its own, and the command line run in this process."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from graphopt.cli import main

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(32, 4)

    def forward(self, x):
        return self.down(self.up(x).relu())


def build():
    torch.manual_seed(0)
    print("said by the model")
    return Net(), (torch.randn(2, 8),)


def build_named():
    return Net(), (), {"x": torch.randn(2, 8)}


def build_other():
    net = Net()
    net.down = nn.Linear(32, 5)
    return net, (torch.randn(2, 8),)


def build_raising():
    return Net(), torch.randn(1)[7]


def build_branching():
    class Branching(Net):
        def forward(self, x):
            y = super().forward(x)
            return y if y.sum() > 0 else -y

    return Branching(), (torch.randn(2, 8),)


def only_a_model():
    return Net()


def one_of_one():
    return (Net(),)


def no_model():
    return "net", ()


def bare_input():
    return Net(), torch.randn(2, 8)


def list_of_inputs():
    return Net(), [torch.randn(2, 8)]


def odd_kwargs():
    return Net(), (), [1]


def with_interrupt():
    raise KeyboardInterrupt


number = 3
net = Net()
"""

DATA = """
import torch

from graphopt import Batch

torch.manual_seed(1)
listed = [Batch(args=(torch.randn(4, 8),), target=torch.zeros(4, 4)) for _ in range(3)]
iterator = iter(listed)
number = 3


def batches():
    yield from listed


def returned():
    return listed


def nothing():
    return None


def raising():
    raise RuntimeError("no data today")


def loss(output, batch):
    return (output - batch.target).square().mean()
"""

PASSES = "prune-channels{ratio=0.5}"


class Outcome(NamedTuple):
    """What a run of the command line left."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the model and its data."""
    path = tmp_path_factory.mktemp("project")
    (path / "net_model.py").write_text(MODEL, encoding="utf-8")
    (path / "net_data.py").write_text(DATA, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def imports() -> Iterator[None]:
    """Forget what the command line imports from the user's files."""
    paths, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = paths
    for name in set(sys.modules) - modules:
        if name.startswith(("net_", "graphopt_target_")):
            del sys.modules[name]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command line in the project's folder."""
    monkeypatch.chdir(folder)

    def call(*words: str) -> Outcome:
        code = main(words)
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def saved(folder: Path) -> Path:
    """Return a result that the command line has saved."""
    out = folder / "out"
    assert main(["optimize", f"{folder / 'net_model.py'}:build", "--passes", PASSES, "--out", str(out)]) == 0
    return out


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and notes are not wrapped, whatever terminal the tests run in."""
    monkeypatch.setenv("COLUMNS", "200")
