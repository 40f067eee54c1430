"""A model's graph from two runs on real tensors, for models whose code asks what is in them.

What the code was told is built into the graph. Where it follows from inputs and constants, it becomes a question that
the program asks at every call; where the weights have a say in it, there is no such graph.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._export.utils import _compiling_state_context

from graphopt.assembly import assemble
from graphopt.assumptions import Answer, Assumptions, repeated
from graphopt.batch import SPREAD, Batch, UnjoinableError
from graphopt.capture_failure import Attempt, raised_by_statement
from graphopt.example_inputs import ExampleInputs
from graphopt.preparation import prepared, quiet
from graphopt.quick_trace import Traced, Tracer, constant_leaf, is_same, join, modes_kept
from graphopt.real_recording import Read, RealRecorder, RealRegions, put_beside, stand_in_of
from graphopt.recorded_graph import RecordedGraph, Run
from graphopt.recorded_paths import RecordedPaths
from graphopt.recording import Call, Recorder, Recording, Ref, UnrecordableError, refs_in


@dataclass(frozen=True)
class RealCapture:
    """A trace, the example that it was made with, and what it takes for granted.

    Attributes:
        traced: Graph and tensors.
        inputs: The example, widened where its batch was one.
        assumptions: What the code was told about the inputs' data; None where it asked nothing.
        dynamic_batch: Whether the batch is symbolic.
    """

    traced: Traced
    inputs: ExampleInputs
    assumptions: Assumptions | None
    dynamic_batch: bool


def real_capture(model: nn.Module, inputs: ExampleInputs, batched: Sequence[int]) -> RealCapture | None:
    """Trace a model in evaluation form by running it on real tensors; None where that does not go.

    Args:
        model: Left as it was. It has weights.
        inputs: The example.
        batched: Places among the leaves of the inputs whose first size is the batch; none for a fixed batch.
    """
    leaves = inputs.leaves()
    if any(leaf.is_meta for leaf in (*model.parameters(), *leaves) if isinstance(leaf, torch.Tensor)):
        return None
    for kind in (_SeenTracer, _RealTracer):
        with Attempt(), quiet(), prepared(model):
            batch = Batch.new(leaves[batched[0]].shape[0] if batched else 1)
            return _captured(kind(model, inputs, frozenset(batched)), batch, inputs)
    return None


def decided_by_weights(model: nn.Module, inputs: ExampleInputs) -> dict[str, str]:
    """Return the modules whose code goes on as the weights decide, or chance, each with a clause that says where.

    Args:
        model: Run on the example; left as it was. It has weights.
        inputs: The example.
    """
    with Attempt(), quiet(), prepared(model):
        tracer = _SeenTracer(model, inputs, frozenset())
        run = tracer.run(1)
        questions = _Questions(tracer, Batch.new(1), (run, run), (tracer.reads, tracer.reads))
        found: dict[str, str] = {}
        for read in tracer.reads:
            why = None if read.module in found else questions.refusal(read)
            if why is not None and not questions.is_check(read):
                found[read.module] = why
        return found
    return {}


def _captured(tracer: "_RealTracer", batch: Batch, inputs: ExampleInputs) -> RealCapture:
    low = tracer.run(batch.low)
    reads = tracer.reads
    high = tracer.run(batch.high) if tracer.batched else low
    traced = join(tracer, batch, low, high)
    assumptions = _Questions(tracer, batch, (low, high), (reads, tracer.reads)).assumptions()
    return RealCapture(traced, inputs, assumptions, bool(tracer.batched))


class _RealTracer(Tracer):
    """Runs a model on real tensors, which lie over the model's own or are copies of the inputs.

    Attributes:
        reads: What the code asked in the last run.
        lied_about: A question that is answered with the opposite; None for none.
    """

    reads: list[Read]
    lied_about: Any = None

    def recorder(self, origin: Callable[[], Any]) -> Recorder:
        made = RealRecorder(self.evaluator, self.known, origin, self.lied_about)
        self.reads = made.reads
        self._regions = RealRegions(made)
        return made

    def contexts(self, recorder: Recorder) -> Sequence[AbstractContextManager[object]]:
        return (torch.random.fork_rng(), enable_python_dispatcher(), modes_kept(), recorder, self._regions)

    def layouts(self, leaves: Sequence[Any]) -> list[Any]:
        return [stand_in_of(leaf) for leaf in leaves]

    def _known(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        return {key: (value, self._double(value, made)) for key, (value, made) in super()._known().items()}

    def _double(self, value: torch.Tensor, stand_in: torch.Tensor) -> torch.Tensor:
        """Return what the model sees in the place of one of its tensors."""
        double = value.detach()
        if isinstance(value, nn.Parameter):
            double.__dict__["_is_param"] = True
        put_beside(double, stand_in)
        return double

    def _leaf(self, place: int, leaf: Any, rows: int) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return constant_leaf(leaf)
        stand_in = super()._leaf(place, leaf.detach().contiguous(), rows)
        spread = place in self.batched and rows != leaf.shape[0]
        copy = leaf.detach().clone(memory_format=torch.contiguous_format)
        made = torch.cat([copy] * SPREAD) if spread else copy
        put_beside(made, stand_in)
        return made


class _SeenTracer(_RealTracer):
    """The same, with code that asks whether it is being traced told so: much of it then asks less about data."""

    def contexts(self, recorder: Recorder) -> Sequence[AbstractContextManager[object]]:
        return (_compiling_state_context(), *super().contexts(recorder))


class _Questions:
    """What two runs asked, as a graph from the inputs to the answers.

    Args:
        tracer: It made the runs.
        batch: Joins their values.
        runs: At the example's batch, and at the other.
        reads: What each asked.
    """

    def __init__(
        self, tracer: _RealTracer, batch: Batch, runs: tuple[Run, Run], reads: tuple[list[Read], list[Read]]
    ) -> None:
        self._tracer = tracer
        self._batch = batch
        self._runs = runs
        self._reads = reads
        self._paths = RecordedPaths(runs[0].recording.calls, zip(runs[0].refs, runs[0].leaves, strict=True))
        self._inputs = {ref: place for place, ref in enumerate(runs[0].refs) if isinstance(ref, Ref)}

    def assumptions(self) -> Assumptions | None:
        """Return the questions with the answers of the example; None where nothing was asked about the inputs.

        Raises:
            UnrecordableError: The weights decide, or chance, or the code asks other things at another batch.
            UnjoinableError: An answer is another one at another batch.
        """
        pairs = self._about_inputs()
        if not pairs:
            return None
        answers = tuple(self._answer(*pair) for pair in pairs)
        needed = sorted({place for read, _ in pairs for place in self._paths.leading_to(read.call, read.place)})
        low, high = (self._asking(side, needed, [pair[side] for pair in pairs]) for side in range(2))
        operands = set(refs_in([(call.args, call.kwargs) for call in low.calls]))
        row = min(self._tracer.batched, default=None)
        used = [place for ref, place in self._inputs.items() if ref in operands or place == row]
        questions = self._graph((low, high), used, operands, len(answers))
        return Assumptions(questions, answers, tuple(used), (), None if row is None else used.index(row))

    def _about_inputs(self) -> list[tuple[Read, Read]]:
        """Return what both runs asked about the inputs, once each; what follows from constants needs no question."""
        first, second = self._reads
        if len(first) != len(second):
            raise UnrecordableError("the code asks for other data at another batch")
        found: dict[Any, tuple[Read, Read]] = {}
        for low, high in zip(first, second, strict=True):
            if low.place != high.place or low.call.target is not high.call.target:
                raise UnrecordableError("the code asks for other data at another batch")
            if self._depends_on_inputs(low):
                found.setdefault(low.key, (low, high))
        return [pair for pair in found.values() if self._matters(pair[0])]

    def _matters(self, read: Read) -> bool:
        """Tell whether another answer leads to other calls; where it only leads to a warning, nobody has to ask."""
        if type(read.value) is not bool:
            return True
        with Attempt():
            return not _is_same_run(self._runs[0], self._lied_about(read))
        return True

    def _depends_on_inputs(self, read: Read) -> bool:
        """Tell whether inputs decide the answer to a question.

        Raises:
            UnrecordableError: The weights have a say in it, or chance.
        """
        why = self.refusal(read)
        if why is None:
            return bool(self._operands(read, self._calls(read)) & set(self._inputs))
        if self.is_check(read):
            return False
        raise UnrecordableError(why)

    def is_check(self, read: Read) -> bool:
        """Tell whether the code itself raises where the answer is another one: a graph takes that to hold."""
        if type(read.value) is not bool:
            return False
        with Attempt() as attempt:
            self._lied_about(read)
        return attempt.failure is not None and raised_by_statement(attempt.failure)

    def _lied_about(self, read: Read) -> Run:
        """Run the model once more, and answer a question with the opposite."""
        self._tracer.lied_about = read.key
        try:
            return self._tracer.run(self._batch.low)
        finally:
            self._tracer.lied_about = None

    def refusal(self, read: Read) -> str | None:
        """Return why a question cannot be asked again at every call; None where it can."""
        calls = self._calls(read)
        weights = {
            self._tracer.numbers[id(value)]
            for value, _ in self._tracer.known.values()
            if isinstance(value, nn.Parameter)
        }
        if self._operands(read, calls) & weights:
            return f"the weights decide at {read.line}"
        if any(torch.Tag.nondeterministic_seeded in call.target.tags for call in calls):
            return f"chance decides at {read.line}"
        if any(self._paths.writes_to(call, self._inputs) for call in calls):
            return f"inputs are written to before {read.line}"
        return None

    def _calls(self, read: Read) -> list[Call]:
        return [self._runs[0].recording.calls[place] for place in self._paths.leading_to(read.call, read.place)]

    def _operands(self, read: Read, calls: Sequence[Call]) -> set[Ref]:
        return set(refs_in([(call.args, call.kwargs) for call in (*calls, read.call)]))

    def _answer(self, low: Read, high: Read) -> Answer:
        one, other = low.value, high.value
        if isinstance(one, torch.Tensor):
            if one.ndim == other.ndim and torch.equal(repeated(one, len(other)) if one.ndim else one, other):
                return Answer(one, None, low.line)
            raise UnjoinableError(f"the data give {one} at one batch and {other} at another, at {low.line}")
        if one == other:
            return Answer(one, None, low.line)
        if type(one) is not int or type(other) is not int:
            raise UnjoinableError(f"the data give {one} at one batch and {other} at another, at {low.line}")
        return Answer(one, self._batch.factor(one, other), low.line)

    def _asking(self, side: int, needed: list[int], reads: list[Read]) -> Recording:
        """Return the calls that lead to the answers, and those that give them."""
        calls = self._runs[side].recording.calls
        events = [(place, 1, calls[place]) for place in needed]
        for number, read in enumerate(reads):
            events.append((read.place, 0, replace(read.call, refs=Ref(-1 - number))))
        return Recording(calls=[call for *_, call in sorted(events, key=lambda event: event[:2])])

    def _graph(
        self, recordings: tuple[Recording, Recording], used: list[int], operands: set[Ref], count: int
    ) -> fx.GraphModule:
        low, high = (
            Run(
                [run.leaves[place] for place in used],
                [run.refs[place] for place in used],
                [Ref(-1 - number) for number in range(count)],
                recording,
            )
            for run, recording in zip(self._runs, recordings, strict=True)
        )
        names = [self._tracer.placeholders[place] for place in used]
        row = min(self._tracer.batched, default=None)
        recorded = RecordedGraph(self._batch, (low, high), names, None if row is None else used.index(row))
        tensors, read = self._tracer.tensors_read(*self._runs)
        wanted = {name: one for name, one in read.items() if one[0] in operands}
        recorded.add_tensors(wanted)
        recorded.add_calls()
        return assemble(recorded.graph, {name: tensors[name] for name in wanted}, "Questions")


def _is_same_run(one: Run, other: Run) -> bool:
    """Tell whether two runs made the same calls with the same tensors."""
    first, second = (
        [(call.target, call.args, call.kwargs, call.refs) for call in run.recording.calls] for run in (one, other)
    )
    constants = zip(one.recording.constants, other.recording.constants, strict=False)
    return (
        first == second
        and one.outputs == other.outputs
        and len(one.recording.constants) == len(other.recording.constants)
        and all(is_same(value, again) for (value, *_), (again, *_) in constants)
    )
