"""What Triton's compiler makes of a kernel for an H100 or H200, on a machine without one."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch

TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.bool: "i1", torch.int64: "i64"}


class Launch(NamedTuple):
    """One launch of a kernel: what was given, and what the compiler made of it."""

    arguments: dict[str, Any]
    grid: tuple[int, ...]
    ptx: str


def compiled_launches(module: ModuleType, launch: Callable[[], object], monkeypatch: Any) -> list[Launch]:
    """Compile every kernel that a function of a module launches, instead of launching it."""
    recorded: list[tuple[Any, Any, dict[str, Any]]] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda *args, **kwargs: recorded.append((self.kernel, grid, named(self.kernel, args, kwargs)))

    monkeypatch.setattr(module, "wrap_triton", Recorder)
    launch()
    monkeypatch.undo()
    return [compile_one(kernel, grid, arguments) for kernel, grid, arguments in recorded]


def named(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a launch by name, those of the first configuration among them."""
    constants = kernel.configs[0].kwargs if hasattr(kernel, "configs") else {}
    return {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs, **constants}


def compile_one(kernel: Any, grid: Any, arguments: dict[str, Any]) -> Launch:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = kernel.fn if hasattr(kernel, "configs") else kernel
    signature, constants, divisible = {}, {}, {}
    for place, parameter in enumerate(function.params):
        value = arguments[parameter.name]
        kind = "constexpr" if parameter.is_constexpr else type_of(value)
        signature[parameter.name] = kind
        if kind == "constexpr":
            constants[parameter.name] = value
        elif isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            divisible[(place,)] = [["tt.divisibility", 16]]
    warps = kernel.configs[0].num_warps if hasattr(kernel, "configs") else arguments.get("num_warps", 4)
    source = ASTSource(function, signature, constants, divisible)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    return Launch(arguments, grid(arguments) if callable(grid) else grid, made.asm["ptx"])


def type_of(value: Any) -> str:
    """Triton's name of an argument's type; a 1 is made a constant, as a launch does."""
    if isinstance(value, torch.Tensor):
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    if value is None or value == 1:
        return "constexpr"
    return "i32" if abs(value) < 2**31 else "i64"
