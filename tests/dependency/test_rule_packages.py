"""Coupling rules of other packages, found through their entry points by an interpreter of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.dependency import registry
from graphopt.errors import RegistrationError

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


def install(folder: Path, rules: str, entry: str) -> None:
    """Lay out an installed distribution: its modules, and metadata that say which of them registers rules."""
    (folder / "thirdparty_operators.py").write_text(OPERATORS)
    (folder / "thirdparty_rules.py").write_text(rules)
    metadata = folder / "thirdparty_kit-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty-kit\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{registry.ENTRY_POINT_GROUP}]\nkit = {entry}\n")


def test_the_rules_of_an_installed_package_are_found(tmp_path: Path) -> None:
    install(tmp_path, RULES, "thirdparty_rules")
    (tmp_path / "model.py").write_text(MODEL)
    done = subprocess.run(
        [sys.executable, "model.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT))), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == (
        "enter.bias(4,) enter.weight(4, 5) gate.bias(4,) gate.weight(4, 5) leave.bias(2,) leave.weight(2, 4) scale(4,)"
    )


FROZEN = "from graphopt import coupling_rule\n\ncoupling_rule({!r}, freezes=True)(lambda t: None)\n"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that has not looked at installed packages yet, and is thrown away afterwards."""
    monkeypatch.setattr(registry, "_TABLE", dict(registry.rule_table()))
    monkeypatch.setattr(registry, "_LOADED", {"built-in"})
    monkeypatch.delitem(sys.modules, "thirdparty_rules", raising=False)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("rules", "entry", "told"),
    [
        ("import no_such_module", "thirdparty_rules", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("", "thirdparty_rulez", "ModuleNotFoundError: No module named 'thirdparty_rulez'"),
        ("1 / 0", "thirdparty_rules", "ZeroDivisionError: division by zero"),
        (
            2 * FROZEN.format("thirdparty.one.default"),
            "thirdparty_rules",
            "RegistrationError: a coupling rule for thirdparty.one.default exists already in thirdparty_rules",
        ),
        (
            FROZEN.format("aten.relu.default"),
            "thirdparty_rules",
            "RegistrationError: a coupling rule for aten.relu.default exists already in graphopt",
        ),
    ],
)
def test_a_package_whose_rules_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: str, entry: str, told: str
) -> None:
    install(tmp_path, rules, entry)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RegistrationError) as raised:
        registry.rule_table()
    start = f"the package thirdparty-kit offers the coupling rules 'kit' at {entry}, which cannot be loaded: {told}"
    assert str(raised.value).startswith(start)
    assert raised.value.__cause__ is not None


@pytest.mark.usefixtures("bare")
def test_a_package_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, FROZEN.format("thirdparty.two.default"), "thirdparty_rules")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "thirdparty.two.default" in registry.rule_table()
    assert registry.rule_table() is registry.rule_table()
