"""One run of a model's own code on real tensors, written down call by call, with what the code asks about their data.

The tensors hold numbers, so that code that reads them goes on as it does without anybody looking. Each has a stand-in
of its layout beside it; what is written down is the same as for a run on stand-ins.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.capture_failure import FOREIGN, Attempt, code_line
from graphopt.evaluation import Evaluator
from graphopt.flex import write_out_for
from graphopt.layouts import PACKED_OPERATORS
from graphopt.recording import (
    Call,
    Recorder,
    Ref,
    Regions,
    UnrecordableError,
    require_recordable,
    written_to,
)

aten = torch.ops.aten

_STAND_IN = "_graphopt_stand_in"
_RUN = "_graphopt_run"
_PLACES_WHERE = frozenset((aten.where.default, aten.nonzero_numpy.default))
_REPEATS = frozenset((aten.repeat_interleave.Tensor, aten.repeat_interleave.self_Tensor))
_ASKED_FOR = frozenset((torch.Tensor.numpy, torch.Tensor.tolist))
_BEHIND_THE_BACK = frozenset((torch.Tensor.data_ptr, torch.Tensor.__dlpack__))


@dataclass(eq=False)
class Read:
    """One question of the code about the data of a tensor.

    Attributes:
        place: How many calls were made before it.
        call: What answers it; its result is a number, or a stand-in.
        value: The answer: a number, or a real tensor.
        line: Where the code asks.
        module: Dotted name of the innermost module that is running; empty where nobody follows.
    """

    place: int
    call: Call
    value: Any
    line: str
    module: str = ""

    @property
    def key(self) -> Any:
        """The same for questions about the same tensors."""
        return key_of(self.call.target, self.call.args, self.call.kwargs)


def key_of(target: Any, args: Any, kwargs: Any) -> Any:
    """Return what tells a call from others, from its arguments with a `Ref` for each tensor."""
    return target, str((args, kwargs))


def put_beside(tensor: torch.Tensor, stand_in: torch.Tensor) -> None:
    """Note the stand-in of a real tensor."""
    tensor.__dict__[_STAND_IN] = stand_in


def stand_in_of(value: Any) -> Any:
    """Return the stand-in beside a real tensor; anything else as it is."""
    return value.__dict__[_STAND_IN] if isinstance(value, torch.Tensor) else value


class RealRecorder(Recorder):
    """Writes down every operator before torch takes it apart, and lets it happen.

    Args:
        evaluator: Says which stand-in belongs to what an operator gives.
        known: Tensors of the model with those that the code sees in their place, by identity of the former.
        origin: Called for every call; its answer is kept with it.
        lied_about: Key of a question that is answered with the opposite; None for none.

    Attributes:
        reads: What the code asked about data, in order.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        known: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
        origin: Callable[[], Any],
        lied_about: Any = None,
    ) -> None:
        super().__init__(evaluator, known, origin)
        self._lied_about = lied_about
        self.reads: list[Read] = []
        self._protected = {value.untyped_storage()._cdata for value, _ in known.values()}

    def write(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write a call outside any transform down and let it happen."""
        require_recordable(func)
        func = aten.lift_fresh_copy.default if func is aten.lift_fresh.default else func
        args, kwargs = self.stood_in(args), {name: self.stood_in(value) for name, value in kwargs.items()}
        if torch.Tag.data_dependent_output in func.tags or func is aten.is_nonzero.default:
            return self._answered(func, args, kwargs)
        answer = self._of_fixed_size(func, args, kwargs)
        return self.recorded(func, args, kwargs) if answer is None else answer

    def recorded(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write down a call on tensors that have numbers, and return what it gives."""
        self._require_harmless(func, args, kwargs)
        refs = self.refs(args), {name: self.refs(value) for name, value in kwargs.items()}
        twins = self._beside(func, *pytree.tree_map(stand_in_of, (args, kwargs)))
        if twins is None and torch.Tag.dynamic_output_shape in func.tags:
            return self._constant_of(func, args, kwargs)
        result = self.for_real(func, args, kwargs)
        twins = self._hold(result, twins, most=func in PACKED_OPERATORS or self._counts_most((args, kwargs)))
        self.recording.calls.append(Call(func, *refs, twins, self.number_all(result), self.origin()))
        if func is aten._is_all_true.default:
            self._checks.add(self.refs(result))
        return result

    def name(self, tensor: torch.Tensor) -> Ref:
        """Give a tensor the next number; it belongs to this run from here on."""
        tensor.__dict__[_RUN] = self
        if _STAND_IN not in tensor.__dict__:
            tensor.__dict__[_STAND_IN] = self.evaluator.stand_in(tensor)
        return super().name(tensor)

    def stood_in(self, value: Any) -> Any:
        """Replace tensors that the code brings along by those that stand for them."""
        if isinstance(value, torch.Tensor) and value.__dict__.get(_RUN) is self:
            return value
        return super().stood_in(value)

    def constant(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what stands for a tensor that the code brings along: another one over the same memory."""
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
            raise UnrecordableError(f"found a {type(tensor).__name__} among the tensors, wanted ordinary ones")
        if id(tensor) not in self._known:
            with torch._C._DisableTorchDispatch():
                double = tensor.detach()
            ref = self.name(double)
            self._known[id(tensor)] = (tensor, double)
            self._protected.add(tensor.untyped_storage()._cdata)
            self.recording.constants.append((tensor, stand_in_of(double), ref, self.origin()))
        return self._known[id(tensor)][1]

    def asked(self, tensor: torch.Tensor) -> torch.Tensor:
        """Write down that the code looks at a whole tensor; return its numbers."""
        held: torch.Tensor = self.stood_in(tensor)
        with torch._C._DisableTorchDispatch():
            value = held.detach().clone()
        self._ask(aten.clone.default, (held,), stand_in_of(held), value)
        return value

    def for_real(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator unseen, as a whole."""
        with torch._C._DisablePythonDispatcher():
            return super().for_real(func, args, kwargs)

    def _answered(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return a number that the code asks for. A check of the code's own is taken to hold, as it is in a graph."""
        if self.is_check(args[0]):
            return True
        value = self.for_real(func, args, kwargs)
        self._ask(func, args, value, value, kwargs)
        return not value if self.reads[-1].key == self._lied_about else value

    def _ask(self, func: Any, args: Any, result: Any, value: Any, kwargs: dict[str, Any] | None = None) -> None:
        named = {name: self.refs(item) for name, item in (kwargs or {}).items()}
        call = Call(func, self.refs(args), named, result, None, {})
        stack: dict[str, tuple[str, str]] = self.origin().get("nn_module_stack", {})
        module = list(stack.values())[-1][0] if stack else ""
        self.reads.append(Read(len(self.recording.calls), call, value, _line(), module))

    def _of_fixed_size(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer an operator that gives as much as the data say by others that give so much; None for any other one."""
        if func is aten.nonzero.default:
            return self._places(args[0])
        if func in _PLACES_WHERE:
            return list(self._columns(args[0]))
        if func is aten.masked_select.default:
            mask = self.recorded(aten.expand_as.default, (args[1], args[0]), {})
            return self._at(args[0], [mask])
        if func is aten._pack_padded_sequence.default:
            return self._packed(*args)
        if func is aten.index.Tensor and any(map(_is_mask, args[1])):
            return self._at(*args)
        if func in _REPEATS and kwargs.get("output_size") is None:
            repeats = args[0] if func is aten.repeat_interleave.Tensor else args[1]
            return self.recorded(func, args, {**kwargs, "output_size": self._total(repeats, func, args)})
        return None

    def _constant_of(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take what an operator gives for a constant: it gives as much as the data say, and has no other form."""
        for tensor in (leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)):
            self.asked(tensor)
        return pytree.tree_map_only(torch.Tensor, self.constant, self.for_real(func, args, kwargs))

    def _at(self, tensor: torch.Tensor, indices: Any) -> Any:
        """Index a tensor, with masks among the indices written as places."""
        places = [column for index in indices for column in (self._columns(index) if _is_mask(index) else (index,))]
        return self.recorded(aten.index.Tensor, (tensor, places), {})

    def _packed(self, padded: torch.Tensor, lengths: torch.Tensor, batch_first: bool) -> tuple[Any, Any]:
        """Pack sequences; how many of them go on at a step is told by their lengths, whatever they hold."""
        pack = aten._pack_padded_sequence.default
        with torch._C._DisableTorchDispatch():
            longest = int(lengths.max())
        self._ask(aten.max.default, (lengths,), self.evaluator.new((), (), lengths.dtype, lengths.device), longest)
        time = 1 if batch_first else 0
        if longest < padded.shape[time]:
            padded = self.recorded(aten.slice.Tensor, (padded, time, 0, longest), {})
        data, _ = self.recorded(pack, (padded, lengths, batch_first), {})
        bare = self.recorded(aten.zeros.default, ([*padded.shape[:2], 1],), {"device": padded.device})
        return data, self.recorded(pack, (bare, lengths, batch_first), {})[1]

    def _columns(self, mask: torch.Tensor) -> Any:
        return self.recorded(aten.unbind.int, (self._places(mask), 1), {})

    def _places(self, mask: torch.Tensor) -> torch.Tensor:
        with torch._C._DisableTorchDispatch():
            count = int(mask.count_nonzero())
        self._ask(aten.count_nonzero.default, (mask,), self.evaluator.new((), (), torch.int64, mask.device), count)
        found: torch.Tensor = self.recorded(aten.nonzero_static.default, (mask,), {"size": count})
        return found

    def _total(self, repeats: torch.Tensor, func: Any, args: tuple[Any, ...]) -> int:
        """Return how many rows a repetition gives."""
        with torch._C._DisableTorchDispatch():
            total = int(repeats.sum())
            self._ask(aten.sum.default, (repeats,), self.evaluator.new((), (), torch.int64, repeats.device), total)
            if func is aten.repeat_interleave.self_Tensor and repeats.numel() == 1:
                rows: int = args[0].numel() if len(args) < 3 or args[2] is None else args[0].shape[args[2]]
                return total * rows
        return total

    def _require_harmless(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse to write to the model's own tensors, which are not to change."""
        for value in pytree.tree_leaves(list(written_to(func, args, kwargs))):
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata in self._protected:
                raise UnrecordableError(f"{func} writes to a tensor of the model")

    def _beside(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return the stand-ins that belong to what a call gives, None where torch does not say."""
        with Attempt(), self.evaluator:
            return self.evaluator(func, args, kwargs)
        return None

    @staticmethod
    def _counts_most(operands: Any) -> bool:
        """Tell whether a stand-in has more rows than its tensor: as many as sequences of one length would pack."""
        tensors = (leaf for leaf in pytree.tree_leaves(operands) if isinstance(leaf, torch.Tensor))
        return any(stand_in_of(tensor).shape != tensor.shape for tensor in tensors)

    def _hold(self, result: Any, twins: Any, *, most: bool) -> Any:
        """Put the stand-ins beside the tensors of a result; return them.

        Raises:
            UnrecordableError: They are to have the most rows that there can be, and torch does not say how many.
        """
        if isinstance(result, list | tuple):
            given = twins if isinstance(twins, list | tuple) and len(twins) == len(result) else [None] * len(result)
            return type(result)([self._hold(*pair, most=most) for pair in zip(result, given, strict=True)])
        if not isinstance(result, torch.Tensor):
            return result
        if result.__dict__.get(_RUN) is not self:
            known = isinstance(twins, torch.Tensor) and twins.dtype == result.dtype
            fits = known and (most or twins.shape == result.shape)
            if most and not fits:
                raise UnrecordableError("nobody knows the sizes of what is computed from a packed sequence")
            result.__dict__[_STAND_IN] = twins if fits else self.evaluator.stand_in(result)
        return result.__dict__[_STAND_IN]


write_out_for(RealRecorder)


class RealRegions(Regions):
    """Tells a recorder also which tensors the code turns into numbers of Python or numpy."""

    def __init__(self, recorder: RealRecorder) -> None:
        super().__init__(recorder)
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call a function of torch; note what it tells about data."""
        if func in _ASKED_FOR:
            return func(self._recorder.asked(args[0]), *args[1:], **(kwargs or {}))
        if func in _BEHIND_THE_BACK:
            raise UnrecordableError(f"{func.__name__} shows the memory of a tensor, and nobody sees what is read there")
        return super().__torch_function__(func, types, args, kwargs)


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def _line() -> str:
    """Return where in the model's own code we are."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((*FOREIGN, "<")):
        frame = frame.f_back
    return code_line(frame.f_code.co_filename, frame.f_lineno)
