"""What the tests of kernels share: tolerances, and the kernels themselves, interpreted and compiled."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

SCRIPT = Path(__file__).with_name("interpreter.py")
COMPILATION = Path(__file__).with_name("compilation.py")

STEPS = 64
"""A kernel rounds each output once to its dtype, and up to this many times in float32 on the way there."""


class Outcome(NamedTuple):
    """What one case gave: the tensors, and how many times a kernel was launched."""

    outputs: list[Tensor]
    launches: int


Compiled = Callable[[ModuleType, Callable[[], object]], list[Any]]
Interpreted = Callable[[str, Sequence[tuple[Any, ...]]], list[Outcome]]


@pytest.fixture(scope="session")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Interpreted:
    """Return `run(module:function, cases)`: every case through the interpreter, all in one process."""

    def run(target: str, cases: Sequence[tuple[Any, ...]]) -> list[Outcome]:
        folder = tmp_path_factory.mktemp("interpreted")
        source, destination = folder / "cases.pt", folder / "outcomes.pt"
        torch.save(list(cases), source)
        environment = {
            **os.environ,
            "PYTHONSAFEPATH": "1",
            "TRITON_INTERPRET": "1",
            "GRAPHOPT_FORCE_TRITON": "1",
            "GRAPHOPT_DISABLE_TRITON": "0",
        }
        command = [sys.executable, str(SCRIPT), target, str(source), str(destination)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=600)
        assert completed.returncode == 0, completed.stderr[-4000:]
        return [Outcome(*outcome) for outcome in torch.load(destination, weights_only=True)]

    return run


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiled:
    """Return `compile(module, launch)`: what Triton's compiler makes of each kernel that `launch` launches.

    Each has its `arguments` by name, its `grid` and its `ptx`. The interpreter runs what the compiler refuses, and no
    GPU is needed to compile for one.
    """
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    # By its path: a folder called kernels on the module path would stand in the way of Hugging Face's package.
    specification = importlib.util.spec_from_file_location("kernel_compilation", COMPILATION)
    assert specification is not None
    assert specification.loader is not None
    compilation = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(compilation)

    def run(module: ModuleType, launch: Callable[[], object]) -> list[Any]:
        with pytest.MonkeyPatch.context() as patch:
            launches: list[Any] = compilation.compiled_launches(module, launch, patch)
        return launches

    return run


@pytest.fixture
def gpu_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton believe that an H100 is there, so that tracing works out what a kernel writes."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    from triton.backends.compiler import GPUTarget

    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_active_torch_device=lambda: torch.device("cuda"),
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)


@pytest.fixture
def moved_bytes() -> Callable[..., int]:
    """Return `count(reference, *arguments)`: what operators read and write of tensors as large as the first."""

    def count(reference: Callable[..., Any], *arguments: Any) -> int:
        counter = StreamBytes(arguments[0].numel())
        with counter:
            reference(*arguments)
        return counter.total

    return count


class StreamBytes(TorchDispatchMode):
    """Counts the bytes of operands and results of a given size."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.total = numel, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        leaves = pytree.tree_leaves((args, result))
        large = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.numel() == self.numel]
        self.total += sum(leaf.nbytes for leaf in large)
        return result


def tolerance(dtype: torch.dtype) -> float:
    """How far an output may be from the exact one, relative to the largest magnitude that went into it.

    Half a unit in the last place for the rounding to the output's dtype, and `STEPS` roundings in float32 before it:
    7.7e-6 in float32, 5e-4 in float16, 3.9e-3 in bfloat16.
    """
    return torch.finfo(dtype).eps / 2 + STEPS * torch.finfo(torch.float32).eps


@pytest.fixture
def require_close() -> Callable[[Tensor, Tensor], None]:
    """Return `check(found, exact)`: `exact` is in float64, of the inputs as rounded to the dtype of `found`."""

    def check(found: Tensor, exact: Tensor) -> None:
        assert exact.dtype == torch.float64
        assert found.shape == exact.shape
        finite = exact.isfinite()
        assert torch.equal(found.isnan().cpu(), exact.isnan().cpu())
        assert torch.equal(found[exact.isinf()].double().cpu(), exact[exact.isinf()].cpu())
        if not finite.any():
            return
        size = max(float(exact[finite].abs().max()), 1.0)
        error = float((found.double() - exact)[finite].abs().max())
        assert error <= tolerance(found.dtype) * size, f"error {error:.3g}, allowed {tolerance(found.dtype) * size:.3g}"

    return check
