"""A model's graph from two runs on stand-ins: at the example's batch, and at three times as many rows.

What differs between the runs by so many times the batch is a multiple of a symbol; whatever else differs cannot be
written that way and is left to torch.export, which is asked for everything that this trace does not know.
"""

import enum
import inspect
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch._export.utils import _compiling_state_context
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from graphopt.assembly import Attribute, named_attributes
from graphopt.batch import Batch
from graphopt.capture_failure import Attempt, explain_raise, explain_transform, source_line, summary
from graphopt.containers import register_containers
from graphopt.errors import CaptureError
from graphopt.evaluation import Evaluator
from graphopt.example_inputs import ExampleInputs
from graphopt.origins import Origins
from graphopt.preparation import prepared, quiet, uncompiled
from graphopt.recorded_graph import RecordedGraph, Run
from graphopt.recording import MixedTypesError, Recorder, Ref, Regions, TransformError, UnrecordableError
from graphopt.untouched import forget_results, untouched

MOST_BY_CHANCE = 3
"""How many inputs are tried as one that does not grow with the batch."""

_CONSTANT = (int, float, bool, str, complex, type(None), torch.dtype, torch.device, enum.Enum)


@dataclass(frozen=True)
class Traced:
    """A graph and what it reads.

    Attributes:
        graph: Every node carries its `meta["val"]`.
        tensors: The model's tensors and the constants in its code, by dotted name.
        bodies: Bodies of regions without gradients or with other autocast, by name.
    """

    graph: fx.Graph
    tensors: Mapping[str, Attribute]
    bodies: Mapping[str, Attribute]


@dataclass(frozen=True)
class QuickCapture:
    """A trace and the example that it was made with.

    Attributes:
        traced: Graph and tensors.
        inputs: The example, widened where its batch was one and is symbolic.
        dynamic_batch: Whether the batch is symbolic.
        notes: Remarks for the user.
    """

    traced: Traced
    inputs: ExampleInputs
    dynamic_batch: bool
    notes: tuple[str, ...]


class _OneBatchError(CaptureError):
    """The model runs at the example's batch and raises at another."""


def quick_capture(model: nn.Module, inputs: ExampleInputs) -> QuickCapture | None:
    """Trace a model in evaluation form, with a symbolic batch unless the model itself raises at another.

    None where that does not go, for whatever reason but two.

    Raises:
        CaptureError: The code calls a transform of torch.func that no graph holds, or multiplies tensors of two types.
    """
    wide, batched = inputs.with_batch()
    if not batched:
        return None
    with Attempt() as attempt, quiet(), prepared(model):
        return _freest(model, wide, batched)
    if isinstance(attempt.failure, MixedTypesError):
        raise explain_raise(model, attempt.failure)
    if isinstance(attempt.failure, TransformError):
        raise explain_transform(model, source_line(attempt.failure))
    if not isinstance(attempt.failure, _OneBatchError):
        return None
    with Attempt(), quiet(), prepared(model):
        return _at_example(model, inputs, str(attempt.failure))
    return None


def _freest(model: nn.Module, inputs: ExampleInputs, batched: Sequence[int]) -> QuickCapture:
    """Trace a model with as many of its inputs as go growing with the batch.

    Raises:
        UnrecordableError: The model's code does what a list of calls does not hold.
        UnjoinableError: The two runs differ by more than multiples of the batch.
        _OneBatchError: The model raises at the other batch, whichever of its inputs do not grow.
        Exception: Whatever the model raises on stand-ins, or torch about them.
    """
    leaves = inputs.leaves()
    batch = Batch.new(leaves[batched[0]].shape[0])
    tracer = Tracer(model, inputs, frozenset(batched))
    low = tracer.run(batch.low)
    failures = []
    for fixed in (None, *_chance(leaves, batched)):
        tracer.batched = frozenset(batched) - {fixed}
        with Attempt() as attempt:
            traced = join(tracer, batch, low, tracer.run(batch.high))
            rows = () if fixed is None else (f"input {tracer.placeholders[fixed]!r} keeps its {batch.low} rows",)
            return QuickCapture(traced, inputs, True, rows)
        failures.append(attempt.failed())
    if len(batched) > MOST_BY_CHANCE + 1 or any(isinstance(failure, CaptureError) for failure in failures):
        raise failures[0]
    raise _OneBatchError(summary(failures[0]))


def _at_example(model: nn.Module, inputs: ExampleInputs, why: str) -> QuickCapture:
    """Trace a model at the batch of its example."""
    tracer = Tracer(model, inputs, frozenset())
    run = tracer.run(1)
    return QuickCapture(join(tracer, Batch.new(1), run, run), inputs, False, (f"static batch: {why}",))


def _chance(leaves: Sequence[Any], batched: Sequence[int]) -> list[int]:
    """Return the places of inputs that may have as many rows as the batch by chance, small ones first."""
    largest = max(batched, key=lambda place: int(leaves[place].numel()))
    others = (place for place in batched if place != largest)
    return sorted(others, key=lambda place: int(leaves[place].numel()))[:MOST_BY_CHANCE]


def join(tracer: "Tracer", batch: Batch, low: Run, high: Run) -> Traced:
    """Make one graph of two runs; of one that is given twice where the batch is fixed.

    Raises:
        UnrecordableError: They made different calls.
        UnjoinableError: They differ by more than multiples of the batch.
    """
    recorded = RecordedGraph(batch, (low, high), tracer.placeholders, min(tracer.batched, default=None))
    tensors, read = tracer.tensors_read(low, high)
    recorded.add_tensors(read)
    recorded.add_calls()
    recorded.graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(tracer.arguments, tracer.in_spec, tracer.out_spec)))
    bodies = {name: Attribute(body) for name, body in recorded.bodies.items()}
    return Traced(recorded.graph, tensors, bodies)


class Tracer:
    """Runs a model on stand-ins.

    Args:
        model: In evaluation form.
        inputs: The example.
        batched: Places among the leaves of the inputs whose first size is the batch.
    """

    def __init__(self, model: nn.Module, inputs: ExampleInputs, batched: frozenset[int]) -> None:
        self.model = model
        found = ((name, one) for name, one in named_attributes(model).items() if isinstance(one.value, torch.Tensor))
        self.attributes = dict(sorted(found, key=lambda item: not isinstance(item[1].value, nn.Parameter)))
        self.leaves, self.in_spec = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
        self.out_spec: pytree.TreeSpec | None = None
        self.batched = batched
        self.arguments, self.placeholders = _argument_names(model, inputs)
        self.evaluator = Evaluator()
        self.origins: Origins | None = Origins(model)
        self.known = self._known()

    def run(self, rows: int) -> Run:
        """Run the model at a batch; only the first run asks where it is."""
        leaves = [self._leaf(place, leaf, rows) for place, leaf in enumerate(self.leaves)]
        args, kwargs = pytree.tree_unflatten(leaves, self.in_spec)
        origins, self.origins = self.origins, None
        recorder = self.recorder(origins or dict)
        self.numbers = {id(value): recorder.name(stand_in) for value, stand_in in self.known.values()}
        refs = [recorder.name(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        with ExitStack() as stack:
            stack.enter_context(untouched(self.model))
            stack.enter_context(uncompiled())
            forget_results(self.model)
            self._swap_in()
            for context in self.contexts(recorder):
                stack.enter_context(context)
            if origins is not None:
                stack.enter_context(origins.following())
            result = self.model(*args, **kwargs)
            self._require_same_buffers(recorder.recording.used)
        register_containers(result)
        outputs, structure = pytree.tree_flatten(result)
        if self.out_spec not in (None, structure):
            raise UnrecordableError("the model returns another structure, or other settings in it, at another batch")
        self.out_spec = structure
        strange = [leaf for leaf in outputs if not isinstance(leaf, (torch.Tensor, *_CONSTANT))]
        if strange:
            raise UnrecordableError(f"the model returns a {type(strange[0]).__name__}")
        return Run(self.layouts(leaves), refs, recorder.refs(outputs), recorder.recording)

    def recorder(self, origin: Callable[[], Any]) -> Recorder:
        """Return what writes a run down."""
        return Recorder(self.evaluator, self.known, origin)

    def contexts(self, recorder: Recorder) -> Sequence[AbstractContextManager[object]]:
        """Return what a run happens in, from the outside in."""
        return (_compiling_state_context(), self.evaluator, modes_kept(), recorder, Regions(recorder))

    def layouts(self, leaves: Sequence[Any]) -> list[Any]:
        """Return stand-ins of fixed sizes for the tensors among some leaves."""
        return list(leaves)

    def tensors_read(self, low: Run, high: Run) -> tuple[dict[str, Attribute], dict[str, tuple[Ref, Any, Any]]]:
        """Return the program's tensors, and of those that the runs read the numbers and stand-ins."""
        tensors, read = dict(self.attributes), {}
        for name, one in self.attributes.items():
            value, stand_in = self.known[id(one.value)]
            ref = self.numbers[id(value)]
            if ref in low.recording.used:
                read[name] = (ref, *self.layouts([stand_in, stand_in]))
        names = _plain_tensor_names(self.model)
        literals = itertools.count()
        pairs = zip(low.recording.constants, high.recording.constants, strict=True)
        for (value, first, ref, origin), (other, second, *_) in pairs:
            name = names.get(id(value)) or _literal_name(origin, next(literals))
            tensors[name] = Attribute(_held(value, other), persistent=False)
            read[name] = (ref, first, second)
        return tensors, read

    def _known(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Make a stand-in for every tensor of the model."""
        known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for one in self.attributes.values():
            value: Any = one.value
            if type(value) not in (torch.Tensor, nn.Parameter) or value.layout != torch.strided or value.is_quantized:
                raise UnrecordableError(f"found a {type(value).__name__} among the model's tensors")
            known[id(value)] = (value, self.evaluator.shared_stand_in(value))
        return known

    def _leaf(self, place: int, leaf: Any, rows: int) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return constant_leaf(leaf)
        if type(leaf) is not torch.Tensor or leaf.layout != torch.strided:
            raise UnrecordableError(f"found a {type(leaf).__name__} among the inputs")
        if place not in self.batched:
            return self.evaluator.stand_in(leaf)
        strides = zip(leaf.shape[1:], leaf.stride()[1:], strict=True)
        if any(size > 1 and size * stride > leaf.stride(0) for size, stride in strides):
            raise UnrecordableError("the batch is not the outermost dimension of an input")
        return self.evaluator.new((rows, *leaf.shape[1:]), leaf.stride(), leaf.dtype, leaf.device)

    def _swap_in(self) -> None:
        """Put the stand-ins into the model; `untouched` takes them out."""
        for name, one in self.attributes.items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(owner), leaf, self.known[id(one.value)][1])

    def _require_same_buffers(self, used: set[Ref]) -> None:
        """Refuse code that leaves other tensors behind for its next call, unless it makes them anew every time."""
        for name, one in self.attributes.items():
            owner, _, leaf = name.rpartition(".")
            value, stand_in = self.known[id(one.value)]
            if getattr(self.model.get_submodule(owner), leaf, None) is not stand_in and self.numbers[id(value)] in used:
                raise UnrecordableError(f"the model's code puts another tensor in the place of {name}")


@contextmanager
def modes_kept() -> Iterator[None]:
    """Put gradients and autocast back as they were; no cast of a weight is kept between calls meanwhile."""
    gradients, cached = torch.is_grad_enabled(), torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_autocast_cache_enabled(cached)


def constant_leaf(leaf: Any) -> Any:
    """Return a leaf of the inputs that is no tensor.

    Raises:
        UnrecordableError: It may hold tensors, which would be constants of the graph.
    """
    if not isinstance(leaf, _CONSTANT):
        raise UnrecordableError(f"found a {type(leaf).__name__} among the inputs")
    return leaf


def is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors hold the same numbers; those without memory do where their sizes are the same."""
    if one is other:
        return True
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return one.is_meta or other.is_meta or bool(torch.eq(one, other).logical_or((one != one) & (other != other)).all())


def _held(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return what a graph holds of a tensor that the code wrote out at either batch: all of it, or its only row.

    Raises:
        UnrecordableError: It is another tensor at another batch.
    """
    if is_same(value, other):
        return value
    row = value[:1] if value.ndim else value
    if row.is_meta or value.ndim != other.ndim or not all(is_same(row.expand_as(one), one) for one in (value, other)):
        raise UnrecordableError("the code writes out another tensor at another batch")
    return row.clone()


def _literal_name(origin: Mapping[str, Any], number: int) -> str:
    """Return the name of a tensor that the code of a module writes out."""
    path = next(iter(reversed(origin.get("nn_module_stack", {"": ("",)}).values())), ("",))[0]
    return f"{path}.lifted_tensor_{number}" if path else f"lifted_tensor_{number}"


def _plain_tensor_names(model: nn.Module) -> dict[int, str]:
    """Return the names of tensors that are ordinary attributes of modules, by identity."""
    found: dict[int, str] = {}
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                found.setdefault(id(value), f"{prefix}.{name}" if prefix else name)
    return found


def _argument_names(model: nn.Module, inputs: ExampleInputs) -> tuple[list[str], list[str]]:
    """Return the names of the arguments of `forward`, and of their leaves, nested ones by their path."""
    positional: dict[str, Any] = {}
    for name, value in inspect.signature(model.forward).bind_partial(*inputs.args).arguments.items():
        kind = inspect.signature(model.forward).parameters[name].kind
        spread = enumerate(value) if kind is inspect.Parameter.VAR_POSITIONAL else ()
        positional |= {f"{name}_{place}": item for place, item in spread} or {name: value}
    named = positional | dict(inputs.kwargs)
    paths: Any = pytree.tree_flatten_with_path(list(named.values()))[0]
    taken: Counter[str] = Counter()
    leaves = []
    for (first, *rest), _ in paths:
        name = "_".join([list(named)[first.idx], *map(_key_text, rest)]).lower()
        leaves.append(f"{name}_{taken[name]}" if taken[name] else name)
        taken[name] += 1
    return list(named), leaves


def _key_text(key: Any) -> str:
    found = next((getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name)), key)
    return re.sub(r"[^a-zA-Z0-9]", "_", str(found))
