"""One run of a model's own code on stand-ins, written down call by call."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import PreDispatchTorchFunctionMode, ProxyTorchDispatchMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from graphopt.errors import CaptureError
from graphopt.evaluation import Evaluator
from graphopt.flex import write_out_for
from graphopt.written_numbers import WrittenNumbers, run_unseen

aten = torch.ops.aten

SET_GRADIENTS = torch._C._set_grad_enabled
ENTER_AUTOCAST = torch.amp.autocast_mode._enter_autocast
EXIT_AUTOCAST = torch.amp.autocast_mode._exit_autocast
REGIONS = frozenset((SET_GRADIENTS, ENTER_AUTOCAST, EXIT_AUTOCAST))
GRADIENTS = frozenset((torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward))
UNWRITTEN = frozenset((torch.ops.prim.device.default, aten.size.default, aten.is_floating_point.default))

_PRODUCTS = frozenset(
    (
        aten.linear.default,
        aten.matmul.default,
        aten.mm.default,
        aten.bmm.default,
        aten.addmm.default,
        aten.baddbmm.default,
        aten.scaled_dot_product_attention.default,
    )
)
"""Operators that want operands of one type, which torch does not ask of stand-ins."""

_NUMBER = "_graphopt_number"


class UnrecordableError(CaptureError):
    """The code does something that a plain list of calls does not hold; torch.export may know how to."""


class TransformError(UnrecordableError):
    """The code calls a transform of torch.func that is more than calls on whole tensors; nothing else knows how to."""


class MixedTypesError(UnrecordableError):
    """The model raises on its inputs: a product of tensors of different types."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor, by its number in the order in which the tensors of a run came up."""

    number: int


@dataclass(eq=False, slots=True)
class Call:
    """One operator call.

    Attributes:
        target: An overload, or a function that begins or ends a region of gradients or autocast.
        args: Positional arguments, with a `Ref` for each tensor.
        kwargs: Named arguments, likewise.
        result: What it gave: stand-ins, or others of the same layout and memory.
        refs: The same, with a `Ref` for each tensor.
        origin: Where in the user's code it was made, and in which modules; None where nobody asked.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any = None
    refs: Any = None
    origin: Any = None


@dataclass(eq=False)
class Recording:
    """What one run did.

    Attributes:
        calls: In order.
        constants: Real tensors that the code brought along, in the order in which it did, each with its stand-in, its
            `Ref` and its origin.
        used: Tensors that were operands.
    """

    calls: list[Call] = field(default_factory=list)
    constants: list[tuple[torch.Tensor, torch.Tensor, Ref, Any]] = field(default_factory=list)
    used: set[Ref] = field(default_factory=set)


class Recorder(ProxyTorchDispatchMode):
    """Writes down every operator before torch takes it apart, and answers with stand-ins.

    Args:
        evaluator: Says what an operator gives.
        known: Real tensors of the model with their stand-ins, by identity of the real one.
        origin: Called for every call; its answer is kept with it.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        known: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
        origin: Callable[[], Any],
    ) -> None:
        TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)
        self._mode_key = torch._C._TorchDispatchModeKey.PROXY
        self.enter_stack = []
        self.evaluator = evaluator
        self.origin = origin
        self.recording = Recording()
        self._known = dict(known)
        self._count = 0
        self._numbers = WrittenNumbers()
        self._checks: set[Ref] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Write a call down and answer it."""
        kwargs = kwargs or {}
        if func in UNWRITTEN:
            return func(*args, **kwargs)
        if torch._C._functorch.peek_interpreter_stack() is None:
            return self.write(func, args, kwargs)
        require_only_vmap(func)
        with Mapped(self):
            return func(*args, **kwargs)

    def write(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write a call outside any transform down and answer it."""
        require_recordable(func)
        literal = args[0] if func is aten.lift_fresh.default else None
        if literal is not None:
            func = aten.lift_fresh_copy.default
        args, kwargs = self.stood_in(args), {name: self.stood_in(value) for name, value in kwargs.items()}
        if torch.Tag.data_dependent_output in func.tags:
            return self._computed(func, args, kwargs)
        if func is aten._pack_padded_sequence.default:
            raise UnrecordableError("the data decide how long the longest of some packed sequences is")
        if func in _PRODUCTS:
            require_one_type(func, args)
        refs = self.refs(args), {name: self.refs(value) for name, value in kwargs.items()}
        result = self.evaluator(func, args, kwargs)
        kept = self._shadow(result) if literal is not None or _is_factory(func) else result
        self.recording.calls.append(Call(func, *refs, kept, self.number_all(result), self.origin()))
        if func is aten._is_all_true.default:
            self._checks.add(result.__dict__[_NUMBER])
        if literal is not None:
            self._numbers.note(result, literal)
        else:
            self._numbers.follow(func, args, kwargs, result)
        return result

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def is_check(self, operand: Any) -> bool:
        """Tell whether an operand is what `torch._check_tensor_all` looks at before it raises."""
        return isinstance(operand, torch.Tensor) and operand.__dict__.get(_NUMBER) in self._checks

    def region(self, func: Any, args: tuple[Any, ...]) -> Call:
        """Write down that a region of gradients or autocast begins or ends."""
        call = Call(func, args, {}, None, None, self.origin())
        self.recording.calls.append(call)
        return call

    def stood_in(self, value: Any) -> Any:
        """Replace real tensors by stand-ins."""
        kind = type(value)
        if kind in (list, tuple):
            return kind([self.stood_in(item) for item in value])
        if not isinstance(value, torch.Tensor):
            if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool | torch.ScriptObject):
                raise UnrecordableError(f"found a {kind.__name__} among the arguments of an operator")
            return value
        return value if getattr(value, "fake_mode", None) is self.evaluator.mode else self.constant(value)

    def name(self, tensor: torch.Tensor) -> Ref:
        """Give a stand-in the next number."""
        self._count += 1
        ref = Ref(self._count)
        tensor.__dict__[_NUMBER] = ref
        return ref

    def refs(self, value: Any) -> Any:
        """Return a value with a `Ref` for each tensor.

        Raises:
            UnrecordableError: A tensor came out of no call that was written down.
        """
        kind = type(value)
        if kind in (list, tuple):
            return [self.refs(item) for item in value]
        if not isinstance(value, torch.Tensor):
            return value
        ref = value.__dict__.get(_NUMBER)
        if ref is None:
            raise UnrecordableError("a tensor was made in a way that nobody saw")
        self.recording.used.add(ref)
        return ref

    def number_all(self, result: Any) -> Any:
        """Give the tensors of a result the next numbers; return these."""
        if isinstance(result, torch.Tensor):
            return self.name(result)
        return [self.number_all(item) for item in result] if isinstance(result, list | tuple) else None

    def _shadow(self, result: Any) -> Any:
        """Return stand-ins that look the same: torch hands a new tensor on as another one if somebody holds it."""
        if isinstance(result, list | tuple):
            return type(result)([self._shadow(item) for item in result])
        return self.evaluator.stand_in(result, result) if isinstance(result, torch.Tensor) else result

    def constant(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the stand-in for a real tensor that the code brings along."""
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
            raise UnrecordableError(f"found a {type(tensor).__name__} among the tensors, wanted ordinary ones")
        if id(tensor) not in self._known:
            stand_in = self.evaluator.stand_in(tensor)
            self._numbers.note(stand_in, tensor)
            self._known[id(tensor)] = (tensor, stand_in)
            self.recording.constants.append((tensor, stand_in, self.name(stand_in), self.origin()))
        return self._known[id(tensor)][1]

    def _computed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute what depends on numbers, where all of them are written out in the code.

        A check of the code's own is taken to hold, as it is in a graph.
        """
        if self.is_check(args[0]):
            return True
        real = self._numbers.of((args, kwargs))
        if real is None:
            raise UnrecordableError(f"{func} depends on the values of a tensor")
        return self.for_real(func, *real)

    def for_real(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator on ordinary tensors, unseen."""
        return run_unseen(func, args, kwargs)


write_out_for(Recorder)


def require_recordable(func: Any) -> None:
    """Refuse a call that a list of calls does not hold.

    Raises:
        UnrecordableError: It changes the sizes of a tensor that is there already.
    """
    if torch.Tag.inplace_view in func.tags and func is not aten.detach_.default:
        raise UnrecordableError(f"{func} changes the sizes of a tensor that is there already")


def require_one_type(func: Any, args: Sequence[Any]) -> None:
    """Refuse a product of tensors of different types, which autocast alone makes one type.

    Raises:
        MixedTypesError: They are different.
    """
    types = dict.fromkeys(operand.dtype for operand in args[:3] if isinstance(operand, torch.Tensor))
    if len(types) > 1 and not torch._C._is_any_autocast_enabled():
        raise MixedTypesError(f"{func} found {' and '.join(map(str, types))}, wanted one type")


def require_no_gradient(func: Any) -> None:
    """Refuse a function that takes gradients, which are made of tensors that no call gave.

    Raises:
        TransformError: It is one.
    """
    if func in GRADIENTS:
        raise TransformError(f"{func.__name__} is called by the model's own code")


def require_only_vmap(func: Any) -> None:
    """Refuse a call inside a transform that is more than the same calls on whole tensors.

    Raises:
        TransformError: It happens inside `torch.func.grad`, `jvp` or the like.
    """
    for interpreter in torch._C._functorch.get_interpreter_stack() or ():
        if interpreter.key() != torch._C._functorch.TransformType.Vmap:
            raise TransformError(f"{func} is called inside a transform of torch.func that is not vmap")


def refs_in(value: Any) -> Iterator[Ref]:
    """Yield the tensors in nested arguments."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from refs_in(item)
    elif isinstance(value, dict):
        yield from refs_in(tuple(value.values()))


def written_to(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the arguments of a call that it writes to, `out=` among them."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield args[place] if place < len(args) else kwargs.get(argument.name)


@functools.cache
def _is_factory(func: Any) -> bool:
    """Tell whether an operator makes new tensors: alone these may be asked for pinned memory."""
    return any(argument.name == "pin_memory" for argument in func._schema.arguments)


class Mapped(TorchDispatchMode):
    """Writes down what `torch.vmap` makes of an operator: calls on whole tensors, below the level of the transform."""

    def __init__(self, recorder: Recorder) -> None:
        TorchDispatchMode.__init__(self, None)
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Write a call down and answer it."""
        if func in UNWRITTEN:
            return func(*args, **(kwargs or {}))
        return self.recorder.write(func, args, kwargs or {})


class NoGradients(TorchFunctionMode):
    """Refuses code that takes gradients, of which torch.export would keep numbers of the example."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call a function of torch.

        Raises:
            TransformError: It is a gradient.
        """
        require_no_gradient(func)
        return func(*args, **(kwargs or {}))


class Regions(PreDispatchTorchFunctionMode):
    """Tells a recorder where gradients and autocast are switched, which is no operator."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.entered: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call a function of torch, and write it down where it switches something.

        Raises:
            TransformError: It is a gradient, which is made of tensors that no call gave.
        """
        require_no_gradient(func)
        if func not in REGIONS:
            return func(*args, **(kwargs or {}))
        if func is EXIT_AUTOCAST:
            args = (self.entered.pop(),)
        call = self.recorder.region(func, args)
        if func is ENTER_AUTOCAST:
            self.entered.append(call)
        if func is SET_GRADIENTS:
            func(*args)
        return call
