import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from graphopt.errors import SpecError
from graphopt.kernels import Kernel, all_kernels, find_kernel, status
from graphopt.kernels.launch import DISABLE, FORCE, on_device, uses_triton
from graphopt.kernels.table import MODULES

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from graphopt.kernels import all_kernels, status
from graphopt.kernels.launch import uses_triton
x = torch.arange(6.0).reshape(1, 2, 3)
found = all_kernels()[0].op(x, [x], [], None, None, None, None, "layer", 0.0, False)[0]
print(len(all_kernels()), found.sum().item(), uses_triton(x), status()["cached_apply"])
"""


def test_every_entry_is_what_its_name_says() -> None:
    kernels = all_kernels()
    assert [kernel.name for kernel in kernels] == list(MODULES)
    for kernel in kernels:
        assert isinstance(kernel, Kernel)
        assert str(kernel.op) == f"graphopt.{kernel.name}.default"
        assert not kernel.op._schema.is_mutable


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"^found no kernel 'cached_aply'; did you mean cached_apply\?$"):
        find_kernel("cached_aply")
    with pytest.raises(SpecError, match=r"there are cached_apply, stack_apply, "):
        find_kernel("zzz")


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({DISABLE: "1"}, "GRAPHOPT_DISABLE_TRITON=1 is set"),
        ({DISABLE: "1", FORCE: "1", "TRITON_INTERPRET": "1"}, "GRAPHOPT_DISABLE_TRITON=1 is set"),
        ({FORCE: "1", "TRITON_INTERPRET": "1"}, ""),
    ],
)
def test_status_gives_the_reason(variables: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (DISABLE, FORCE, "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = status()
    assert list(found) == list(MODULES)
    assert {entry.reason for entry in found.values()} == {reason}
    assert {entry.runs for entry in found.values()} == {"reference" if reason else "triton"}
    assert str(found["taylor_add"]) == (f"reference ({reason})" if reason else "triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_status_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (DISABLE, FORCE, "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    assert str(status()["cached_apply"]) == "reference (there is no CUDA device)"
    monkeypatch.setenv(FORCE, "1")
    assert status()["cached_apply"].reason == "GRAPHOPT_FORCE_TRITON=1 is set without TRITON_INTERPRET=1"


def test_the_interpreter_takes_only_what_has_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DISABLE, raising=False)
    monkeypatch.setenv(FORCE, "1")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    plain = torch.zeros(2)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(plain)
    assert uses_triton(plain, torch.nn.Parameter(plain))
    assert not uses_triton(plain, fake)
    assert not uses_triton(plain.to("meta"))
    monkeypatch.delenv(FORCE)
    assert not uses_triton(plain)


def test_a_tensor_on_the_cpu_changes_no_device() -> None:
    with on_device(torch.zeros(2)) as entered:
        assert entered is None


def test_everything_works_without_triton() -> None:
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", WITHOUT_TRITON]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120)
    reason = "Triton is not installed; pip install 'graphopt[gpu]' brings it on Linux"
    assert completed.stdout.strip() == f"{len(MODULES)} 30.0 False reference ({reason})"
    assert completed.stderr == ""
