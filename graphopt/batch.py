"""A symbolic batch: values at two batch sizes become one value with a symbol, and the other way round.

Sizes that differ between two batches, each so many times the batch, are that multiple of the symbol; whatever changes
otherwise is not described here. Computing at two sizes and joining takes a tenth of the time of computing with symbols.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from graphopt.errors import CaptureError
from graphopt.evaluation import Evaluator
from graphopt.fakes import FakeMaker

SPREAD = 3
"""How many times as large the second batch is: what divides the first divides it too."""


class UnjoinableError(CaptureError):
    """Two values differ in another way than by a multiple of the batch."""


def _factor_of(size: torch.SymInt) -> int:
    """Return how many times the batch a size is.

    Raises:
        UnjoinableError: It is no multiple of a single symbol, or nothing says how large it is on the example.
    """
    rest, factor = _place_of(size)
    if rest:
        raise UnjoinableError(f"a size is {size}, wanted a multiple of the batch")
    return factor


def _place_of(place: int | torch.SymInt) -> tuple[int, int]:
    """Return where a value begins, as a number and how many times the batch comes on top.

    Raises:
        UnjoinableError: It is of another form, or nothing says how large it is on the example.
    """
    if not isinstance(place, torch.SymInt):
        return place, 0
    rest, size = place.node.expr.as_coeff_Add()
    factor, symbol = size.as_coeff_Mul()
    if not symbol.is_Symbol or not place.node.has_hint() or int(factor) != factor or int(rest) != rest:
        raise UnjoinableError(f"a size is {place}, wanted a multiple of the batch")
    return int(rest), int(factor)


class Batch:
    """A symbol for the batch and the two sizes at which things are computed.

    Args:
        low: The batch of the example.
        mode: The mode of values with symbols.
        multiple: A factor and so many times the symbol, None where there is no symbol.

    Attributes:
        mode: The mode of values with symbols.
        low: The batch of the example.
        high: The other batch.
        is_symbolic: Whether there is a symbol.
    """

    def __init__(self, low: int, mode: FakeTensorMode, multiple: tuple[int, torch.SymInt] | None = None) -> None:
        self.low = low
        self.high = SPREAD * low
        self.mode = mode
        self._fake = FakeMaker(mode)
        self.is_symbolic = multiple is not None
        self._multiples: dict[int, torch.SymInt] = {} if multiple is None else dict([multiple])
        self._bases: dict[tuple[int, int], torch.Tensor] = {}
        self._storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    @classmethod
    def new(cls, low: int) -> "Batch":
        """Return a batch with a symbol of its own."""
        mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
        from torch._dynamo.source import ConstantSource  # loads a compiler, which importing graphopt must not

        context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
        example = torch.empty(low, device="meta")
        fake: torch.Tensor = mode.from_tensor(example, symbolic_context=context, source=ConstantSource("batch"))
        return cls(low, mode, (1, cast(torch.SymInt, fake.shape[0])))

    @classmethod
    def of_size(cls, mode: FakeTensorMode, size: torch.SymInt) -> "Batch":
        """Return the batch of which a size of a mode's values is a multiple.

        Raises:
            UnjoinableError: It is none, or nothing says how large it is on the example.
        """
        factor = _factor_of(size)
        return cls(int(size.node.hint) // factor, mode, (factor, size))

    def multiple(self, factor: int) -> torch.SymInt:
        """Return so many times the symbol."""
        if factor not in self._multiples:
            known, size = next(iter(self._multiples.items()))
            self._multiples[factor] = size * factor if known == 1 else size // known * factor
        return self._multiples[factor]

    def factor(self, low: int, high: int) -> int:
        """Return how many times the batch two different sizes are.

        Raises:
            UnjoinableError: They are no multiple of it.
        """
        factor, rest = divmod(low, self.low)
        if rest or factor * self.high != high:
            raise UnjoinableError(f"a size is {low} at batch {self.low} and {high} at batch {self.high}")
        return factor

    def size(self, low: int, high: int) -> int | torch.SymInt:
        """Return a size with the symbol where the two differ."""
        return low if low == high else self.multiple(self.factor(low, high))

    def place(self, low: int, high: int) -> int | torch.SymInt:
        """Return where a value begins in its memory: behind so many elements a row, and some more.

        Raises:
            UnjoinableError: It is of no such form.
        """
        factor, rest = divmod(high - low, self.high - self.low)
        begin = low - factor * self.low
        if rest or factor < 0 or begin < 0:
            raise UnjoinableError(f"a value begins at {low} at batch {self.low} and at {high} at batch {self.high}")
        return begin + self.multiple(factor) if factor else begin

    def split(self, evaluator: Evaluator, value: Any) -> tuple[Any, Any]:
        """Return a value at either batch: a stand-in, a number, or what it is.

        Raises:
            UnjoinableError: It is no multiple of the batch.
        """
        if isinstance(value, torch.SymInt):
            factor = _factor_of(value)
            return factor * self.low, factor * self.high
        if not isinstance(value, torch.Tensor):
            return value, value
        if not isinstance(value, FakeTensor) or value.is_conj() or value.is_neg() or value.layout != torch.strided:
            raise UnjoinableError(f"found {value}, wanted an ordinary tensor")
        low, high = (self._at(evaluator, value, side) for side in range(2))
        storage = value.untyped_storage()
        self._storages[low.untyped_storage()._cdata] = (low.untyped_storage(), storage)
        return low, high

    def _at(self, evaluator: Evaluator, value: FakeTensor, side: int) -> torch.Tensor:
        """Return a stand-in for a value at one of the batches; values that share memory share it there too."""
        sizes, strides = (
            tuple(self.split(evaluator, size)[side] for size in layout) for layout in (value.shape, value.stride())
        )
        begin, factor = _place_of(value.storage_offset())
        offset = begin + factor * (self.low, self.high)[side]
        key = (value.untyped_storage()._cdata, side)
        if key not in self._bases:
            size_bytes = self.split(evaluator, value.untyped_storage().nbytes())[side]
            self._bases[key] = evaluator.new((size_bytes,), (1,), torch.uint8, value.fake_device)
        return evaluator.view(self._bases[key], (offset, sizes, strides), value.dtype, value.fake_device)

    def join(self, low: Any, high: Any) -> Any:
        """Return one value for two: tensors, numbers, or lists of such.

        Raises:
            UnjoinableError: They differ otherwise.
        """
        if isinstance(low, torch.Tensor) and isinstance(high, torch.Tensor):
            return self._join_tensors(low, high)
        if isinstance(low, list | tuple) and isinstance(high, list | tuple) and len(low) == len(high):
            return type(low)([self.join(*pair) for pair in zip(low, high, strict=True)])
        if type(low) is int and type(high) is int:
            return self.size(low, high)
        if low == high or (low is None and high is None):
            return low
        raise UnjoinableError(f"a value is {low!r} at batch {self.low} and {high!r} at batch {self.high}")

    def _join_tensors(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        bits = low.is_conj(), low.is_neg()
        if low.dtype != high.dtype or low.ndim != high.ndim or bits != (high.is_conj(), high.is_neg()):
            raise UnjoinableError(f"a value is {low} at batch {self.low} and {high} at batch {self.high}")
        sizes = self._join_sizes(low.shape, high.shape)
        strides = self._join_sizes(low.stride(), high.stride())
        offset = self.place(int(low.storage_offset()), int(high.storage_offset()))
        storage = self._storage(low)
        with torch._C._DisableTorchDispatch():
            bare = torch.empty(0, dtype=low.dtype, device="meta").set_(storage).as_strided(sizes, strides, offset)
            bare = bare.conj() if bits[0] else bare
            bare = torch._neg_view(bare) if bits[1] else bare
        return self._fake(bare, low.device)

    def _join_sizes(self, low: Sequence[int], high: Sequence[int]) -> list[Any]:
        return [self.size(*pair) for pair in zip(low, high, strict=True)]

    def _storage(self, low: torch.Tensor) -> torch.UntypedStorage:
        """Return the memory of joined values that lie in the same memory at the example's batch."""
        own = low.untyped_storage()
        if own._cdata not in self._storages:
            with torch._C._DisableTorchDispatch():
                made = torch.empty(own.nbytes(), dtype=torch.uint8, device="meta").untyped_storage()
            self._storages[own._cdata] = (own, made)
        return self._storages[own._cdata][1]
