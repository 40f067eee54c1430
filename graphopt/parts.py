"""Modules that are kept whole: the user's own code over the program's tensors, and the sizes of what it gives."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from graphopt.capture_failure import Attempt, summary
from graphopt.errors import CaptureError, GraphoptError
from graphopt.untouched import untouched

_Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
_PARTS: dict[int, "Part"] = {}
_KEY = torch._C.DispatchKey
_AUTOGRAD = (_KEY.AutogradCPU, _KEY.AutogradCUDA, _KEY.AutogradOther, _KEY.ADInplaceOrView)


@dataclass(frozen=True, eq=False)
class Shell:
    """A module that is kept whole, without what its parameters and buffers hold.

    Attributes:
        name: Its dotted name in the user's model.
        module: A copy of it.
        why: Why it is kept whole, in one clause.
        tensors: Names of its parameters and buffers, in the order in which the operator takes them.
        lock: Held while it runs: tensors are put into it for that long.
    """

    name: str
    module: nn.Module
    why: str
    tensors: tuple[str, ...]
    lock: RLock = field(default_factory=RLock)


@dataclass(eq=False)
class Part:
    """One way in which a module that is kept whole is called.

    Attributes:
        shell: The module.
        takes: Structure of its positional and keyword inputs.
        fixed: The leaves of these that are no tensors, by place.
        gives: Structure of what it returns; None before it ran.
        constants: The leaves of that which are no tensors, by place.
        serial: Its number in this process.
    """

    shell: Shell
    takes: pytree.TreeSpec
    fixed: Mapping[int, Any]
    gives: pytree.TreeSpec | None = None
    constants: Mapping[int, Any] | None = None

    def __post_init__(self) -> None:
        self.serial = secrets.randbits(62)  # a graph that comes from another process must not find this one's parts
        self._found: dict[Any, tuple[list[_Layout], int]] = {}
        _PARTS[self.serial] = self

    @property
    def name(self) -> str:
        """Dotted name of the module in the user's model."""
        return self.shell.name

    def call(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> Any:
        """Run the module.

        Args:
            inputs: The tensors among the leaves of its inputs.
            tensors: Its parameters and buffers.
        """
        rest = iter(inputs)
        count = len(inputs) + len(self.fixed)
        leaves = [self.fixed[place] if place in self.fixed else next(rest) for place in range(count)]
        args, kwargs = pytree.tree_unflatten(leaves, self.takes)
        held = dict(zip(self.shell.tensors, tensors, strict=True))
        with self.shell.lock:
            return functional_call(self.shell.module, held, args, kwargs)

    def results(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run the module; return the tensors among the leaves of what it returns.

        Raises:
            CaptureError: It writes to what it is given, or returns another structure than before.
        """
        before = _versions((*inputs, *tensors))
        leaves, gives = pytree.tree_flatten(self.call(inputs, tensors))
        if before != _versions((*inputs, *tensors)):
            raise CaptureError(
                f"{self.name} is kept whole and writes to a tensor that it is given, wanted code that leaves its "
                "inputs and buffers as they are; keep a module around it whole"
            )
        constants = {place: leaf for place, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}
        if self.gives is not None and (gives, constants) != (self.gives, self.constants):
            raise CaptureError(
                f"{self.name} is kept whole and what it returns has another structure, or other constants, on other "
                "data, wanted the same; keep a module around it whole"
            )
        self.gives, self.constants = gives, constants
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def returned(self, results: Sequence[Tensor]) -> Any:
        """Return what the module returns, of its tensors; the module ran before."""
        rest, constants = iter(results), self.constants or {}
        count = len(results) + len(constants)
        leaves = [constants[place] if place in constants else next(rest) for place in range(count)]
        return pytree.tree_unflatten(leaves, self.gives or pytree.tree_structure(None))

    def layouts(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[_Layout]:
        """Return the layouts of what it gives on tensors of these layouts, by running it on others like them.

        Raises:
            CaptureError: The sizes depend on the data.
        """
        return self._looked_up(inputs, tensors)[0]

    def macs(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> int:
        """Return the multiply-accumulates on tensors of these layouts, counted on others like them.

        Raises:
            CaptureError: The sizes of what it returns depend on the data.
        """
        return self._looked_up(inputs, tensors)[1]

    def _looked_up(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> tuple[list[_Layout], int]:
        key = tuple(_layout(tensor) for tensor in (*inputs, *tensors))
        if key not in self._found:
            self._found[key] = self._run(inputs, tensors)
        return self._found[key]

    def require_layouts(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """Refuse a module whose results on real data have other sizes than those on made-up data.

        Raises:
            CaptureError: The sizes depend on the data.
        """
        if [tuple(result.shape) for result in results] != [sizes for sizes, *_ in self.layouts(inputs, tensors)]:
            raise self._depends_on_data()

    def _run(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> tuple[list[_Layout], int]:
        """Run the module on made-up tensors; return the layouts of what it gives, and its multiply-accumulates."""
        # loads a compiler, which importing graphopt must not
        from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

        counter = FlopCounterMode(display=False)
        alone = untouched(self.shell.module)  # what the code keeps of made-up tensors is not for the next call
        with Attempt() as attempt, alone, apart(), followed_by_autograd(), torch.random.fork_rng(devices=[]):
            held = [_made_up(tensor, alike=False) for tensor in tensors]
            with _FlopCounterMode(counter):  # the counter's own hooks on modules refuse code that takes gradients
                first = self.results([_made_up(tensor, alike=False) for tensor in inputs], held)
            second = self.results([_made_up(tensor, alike=True) for tensor in inputs], held)
        if attempt.failure is not None:
            raise self._refused(attempt.failed()) from attempt.failure
        if [result.shape for result in first] != [result.shape for result in second]:
            raise self._depends_on_data()
        return [_layout(result) for result in first], counter.get_total_flops() // 2

    def _refused(self, failure: Exception) -> CaptureError:
        if isinstance(failure, CaptureError):
            return failure
        return CaptureError(
            f"{self.name} is kept whole and does not run on made-up tensors of the sizes of its inputs, from which the "
            f"sizes of what it returns are told: {summary(failure)}; keep a module around it whole"
        )

    def _depends_on_data(self) -> CaptureError:
        return CaptureError(
            f"{self.name} is kept whole and the sizes of what it returns depend on the data, wanted sizes that follow "
            "from those of its inputs; keep a module around it whole"
        )


def part_of(serial: int, name: str) -> Part:
    """Return a part of this process.

    Raises:
        GraphoptError: It is not there: the graph comes from another process.
    """
    part = _PARTS.get(serial)
    if part is None:
        raise GraphoptError(
            f"{name} is kept whole: the program runs the user's own code there, which is not in this process; capture "
            "the model here and apply the plan to it"
        )
    return part


@contextmanager
def apart() -> Iterator[None]:
    """Let nobody who follows operators see what happens in the block."""
    with torch._C.DisableTorchFunction(), _disable_current_modes(), torch._C._DisablePythonDispatcher():
        yield


@contextmanager
def followed_by_autograd() -> Iterator[None]:
    """Let autograd see what happens in the block, which it does not inside an operator: code may take gradients."""
    included, excluded = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    for key in _AUTOGRAD:
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(included, excluded):
        yield


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    """Return how often each tensor was written to; those of inference mode do not count."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def _layout(tensor: Tensor) -> _Layout:
    return tuple(map(int, tensor.shape)), tuple(map(int, tensor.stride())), tensor.dtype


def _made_up(tensor: Tensor, *, alike: bool) -> Tensor:
    """Return a tensor of a layout: whole numbers zero, others random, or all of them alike."""
    sizes, strides, dtype = _layout(tensor)
    device = torch.device("cpu") if tensor.device.type == "meta" else tensor.device
    made = torch.empty_strided(sizes, strides, dtype=dtype, device=device)
    if dtype is torch.bool:
        return made.fill_(True)
    if not dtype.is_floating_point and not dtype.is_complex:
        return made.zero_()
    if alike:
        return made.fill_(1.0)
    generator = torch.Generator(device).manual_seed(0)
    return made.copy_(torch.randn(sizes, generator=generator, dtype=torch.float32, device=device))
