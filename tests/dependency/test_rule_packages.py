"""Coupling rules of other packages, found through their entry points by an interpreter of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPERATORS = """
import torch
from torch import Tensor


@torch.library.custom_op("thirdparty::gated_sum", mutates_args=())
def gated_sum(x: Tensor, gate: Tensor, scale: Tensor) -> Tensor:
    return x + gate * scale


@gated_sum.register_fake
def _(x: Tensor, gate: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x)
"""
RULES = """
from thirdparty_operators import gated_sum

from graphopt import Sample, coupling_rule


@coupling_rule("thirdparty.gated_sum.default", sample=Sample(gated_sum, ((6,), (6,)), {"scale": (6,)}))
def gated_sum_rule(t):
    return t.broadcast(t.dims("x"), t.dims("gate"), t.dims("scale"))
"""
MODEL = """
import torch
from thirdparty_operators import gated_sum
from torch import nn

import graphopt


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.gate, self.leave = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.leave(gated_sum(self.enter(x), self.gate(x), self.scale))


program = graphopt.capture(Model(), (torch.randn(3, 5),))
result = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(program)
assert max(check.error for check in graphopt.verify(program, result).checks) < 1e-4
print(*(f"{name}{tuple(tensor.shape)}" for name, tensor in sorted(result.program.parameters.items())))
"""


def install(folder: Path, rules: str, *entries: str) -> None:
    """Lay out an installed distribution: its modules, and metadata that say which of them registers rules."""
    (folder / "thirdparty_operators.py").write_text(OPERATORS)
    (folder / "thirdparty_rules.py").write_text(rules)
    metadata = folder / "thirdparty_kit-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty-kit\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[graphopt.coupling_rules]\n" + "\n".join(entries) + "\n")


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "model.py").write_text(MODEL)
    paths = os.pathsep.join(str(path) for path in (folder, ROOT))
    return subprocess.run(
        [sys.executable, "model.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_rules_of_an_installed_package_are_found(tmp_path: Path) -> None:
    install(tmp_path, RULES, "kit = thirdparty_rules")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    shapes = "enter.bias(4,) enter.weight(4, 5) gate.bias(4,) gate.weight(4, 5) leave.bias(2,) leave.weight(2, 4)"
    assert done.stdout.split("\n")[0] == f"{shapes} scale(4,)"


@pytest.mark.parametrize(
    ("rules", "entry", "told"),
    [
        ("import no_such_module", "thirdparty_rules", "ModuleNotFoundError: No module named 'no_such_module'"),
        (RULES, "thirdparty_rulez", "ModuleNotFoundError: No module named 'thirdparty_rulez'"),
        ("1 / 0", "thirdparty_rules", "ZeroDivisionError: division by zero"),
        (
            RULES + RULES,
            "thirdparty_rules",
            "RegistrationError: a coupling rule for thirdparty.gated_sum.default exists already in thirdparty_rules",
        ),
        (
            RULES.replace("thirdparty.gated_sum.default", "aten.relu.default"),
            "thirdparty_rules",
            "RegistrationError: a coupling rule for aten.relu.default exists already",
        ),
    ],
)
def test_a_package_whose_rules_cannot_be_loaded_is_named(tmp_path: Path, rules: str, entry: str, told: str) -> None:
    install(tmp_path, rules, f"kit = {entry}")
    done = run(tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "graphopt.errors.RegistrationError: the package thirdparty-kit offers the coupling rules 'kit'"
    )
    assert f"at {entry}, which cannot be loaded: {told}" in last
