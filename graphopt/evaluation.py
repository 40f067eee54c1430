"""What an operator gives on tensors without memory: sizes, type, and whose memory it lies in.

Stand-ins are fake tensors of fixed sizes. An operator on operands of the same layouts gives the same layout again, so
what torch once computed is kept and found again by the layouts; that is what makes capturing deep models cheap.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.immutable_collections import immutable_list
from torch.utils import _pytree as pytree

from graphopt.fakes import FakeMaker
from graphopt.layouts import goes_direct, packed_layouts, quick_layout

MOST_LAYOUTS = 20_000
"""How many results are kept; all are forgotten when there are more."""

_LAYOUTS: dict[Any, "_Outcome"] = {}
_PLAIN = frozenset(
    (int, float, complex, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
)
_NESTED = frozenset((list, tuple, torch.Size, immutable_list))


class _OpaqueError(Exception):
    """An operand may bring more than its layout."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What an operator gave.

    Attributes:
        kind: ``list`` or ``tuple`` where there are several results, None for one.
        parts: Each makes a result again from operands of the same layouts.
    """

    kind: type | None
    parts: tuple["_Maker", ...]


class Evaluator:
    """Calls operators on stand-ins for tensors; a context in which torch makes no other tensors.

    Attributes:
        mode: The mode of all stand-ins.
    """

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.mode.cache_enabled = False
        self._fake = FakeMaker(self.mode)
        self._stack = ExitStack()
        self._shared: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._bases: dict[int, torch.Tensor] = {}

    def __enter__(self) -> Self:
        """Let torch make stand-ins only, and take the decompositions that it takes when it traces."""
        from torch.export._trace import _ignore_backend_decomps  # loads a compiler, which importing graphopt must not

        self._stack.enter_context(_ignore_backend_decomps())
        self._stack.enter_context(self.mode)
        self._stack.enter_context(enable_python_dispatcher())
        return self

    def __exit__(self, *failure: object) -> None:
        """Let torch make ordinary tensors again."""
        self._stack.close()

    def __call__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what an operator gives; called inside the context."""
        tensors: list[torch.Tensor] = []
        try:
            key = _key(function, args, kwargs, tensors)
        except _OpaqueError:
            return function(*args, **kwargs)
        known = _LAYOUTS.get(key)
        if known is not None:
            made = [part(self, tensors) for part in known.parts]
            return known.kind(made) if known.kind else made[0]
        result = self._computed(function, args, kwargs, tensors)
        self._remember(key, result, tensors)
        return result

    def shared_stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the one stand-in for a tensor; those for tensors over one memory lie in one memory."""
        if id(tensor) not in self._shared:
            storage = tensor.untyped_storage()._cdata
            made = self.stand_in(tensor, self._bases.get(storage))
            self._bases.setdefault(storage, made)
            self._shared[id(tensor)] = (tensor, made)
        return self._shared[id(tensor)][1]

    def stand_in(self, tensor: torch.Tensor, base: torch.Tensor | None = None) -> torch.Tensor:
        """Return a stand-in for a strided tensor, with memory of its own or in that of another stand-in."""
        layout = tuple(tensor.shape), tensor.stride()
        if base is None and not tensor.storage_offset():
            made = self.new(*layout, tensor.dtype, tensor.device)
        else:
            if base is None:
                base = self.new((tensor.untyped_storage().nbytes(),), (1,), torch.uint8, tensor.device)
            made = self.view(base, (int(tensor.storage_offset()), *layout), tensor.dtype, tensor.device)
        if isinstance(tensor, nn.Parameter):
            made.__dict__["_is_param"] = True
        return made

    def new(self, sizes: Any, strides: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Return a stand-in of that layout, with memory of its own."""
        with torch._C._DisableTorchDispatch():
            bare = torch.empty_strided(sizes, strides, dtype=dtype, device="meta")
        return self._fake(bare, device)

    def view(self, base: torch.Tensor, place: tuple[int, Any, Any], dtype: torch.dtype, device: Any) -> torch.Tensor:
        """Return a stand-in that lies in another's memory, at an offset, with sizes and strides."""
        return self._fake(_bare(base, place, dtype), device)

    def _computed(self, function: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor]) -> Any:
        """Compute a result for the first time, by a short way where there is one."""
        layout = quick_layout(function, args, kwargs)
        if layout is not None:
            return self.new(*layout, tensors[0].device)
        several = packed_layouts(function, args)
        if several is not None:
            return tuple(self.new(*layout, device) for layout, device in several)
        if goes_direct(function, tensors):
            return self._direct(function, args, kwargs, tensors[0].device)
        return function(*args, **kwargs)

    def _direct(self, function: Any, args: Any, kwargs: Any, device: torch.device) -> Any:
        bare = pytree.tree_map_only(torch.Tensor, _bare, (args, kwargs))
        with torch._C._DisableTorchDispatch(), torch._C._DisablePythonDispatcher():
            result = function(*bare[0], **bare[1])
        if isinstance(result, torch.Tensor):
            return self._fake(result, device)
        return type(result)(self._fake(item, device) for item in result)

    def _remember(self, key: Any, result: Any, tensors: list[torch.Tensor]) -> None:
        kind = type(result) if type(result) in (list, tuple) else None
        parts = [_maker(item, tensors) for item in (result if kind else (result,))]
        makers = tuple(part for part in parts if part is not None)
        if len(makers) < len(parts):
            return
        if len(_LAYOUTS) >= MOST_LAYOUTS:
            _LAYOUTS.clear()
        _LAYOUTS[key] = _Outcome(kind, makers)


_Maker = Callable[[Evaluator, list[torch.Tensor]], Any]


def _maker(value: Any, tensors: list[torch.Tensor]) -> _Maker | None:
    """Return what makes a result again from other operands of the same layouts, None where that is not known."""
    if type(value) in _PLAIN:
        return lambda _, operands: value
    if type(value) is not FakeTensor or value.is_conj() or value.is_neg() or value.constant is not None:
        return None
    for index, tensor in enumerate(tensors):
        if value is tensor:
            return lambda _, operands: operands[index]
    place, kind = (int(value.storage_offset()), tuple(value.shape), value.stride()), (value.dtype, value.fake_device)
    storage = value.untyped_storage()._cdata
    for index, tensor in enumerate(tensors):
        if tensor.untyped_storage()._cdata == storage:
            return lambda evaluator, operands: evaluator.view(operands[index], place, *kind)
    if place[0]:
        return None
    return lambda evaluator, operands: evaluator.new(*place[1:], *kind)


def _key(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor]) -> Any:
    """Return what a result depends on; the operands' tensors are added to the list.

    Raises:
        _OpaqueError: It may depend on more than layouts.
    """
    if not isinstance(function, torch._ops.OpOverload) or torch.Tag.inplace_view in function.tags:
        raise _OpaqueError
    if torch._C._is_any_autocast_enabled():
        raise _OpaqueError
    parts = (_read(args, tensors), tuple(kwargs), _read(tuple(kwargs.values()), tensors))
    storages = [tensor.untyped_storage()._cdata for tensor in tensors] if len(tensors) > 1 else []
    return function, torch.get_default_dtype(), parts, tuple(map(storages.index, storages))


def _read(value: Any, tensors: list[torch.Tensor]) -> Any:
    kind = type(value)
    if kind is FakeTensor:
        if value.constant is not None or (value.is_complex() and value.is_conj()) or value.layout != torch.strided:
            raise _OpaqueError
        tensors.append(value)
        return value.dtype, value.fake_device, tuple(value.shape), value.stride(), value.storage_offset()
    if kind in _PLAIN:
        return kind, value
    if kind not in _NESTED:
        raise _OpaqueError
    return tuple([_read(item, tensors) for item in value])


def _bare(
    tensor: torch.Tensor, place: tuple[int, Any, Any] | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return a plain tensor without memory over a stand-in's storage; as the stand-in lies, or at another place."""
    offset, sizes, strides = place or (tensor.storage_offset(), tensor.shape, tensor.stride())
    with torch._C._DisableTorchDispatch(), torch._C._DisablePythonDispatcher():
        bare = torch.empty(0, dtype=dtype or tensor.dtype, device="meta")
        bare.set_(tensor.untyped_storage(), offset, sizes, strides)
    return bare
