"""Recurrent networks: gates are parts of one dimension, and every part is the hidden state's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.terms import Dim
from graphopt.dependency.ties import Output, Ties

aten = torch.ops.aten
TIME = "a recurrence runs along it"
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


PACKED = "sequences of several lengths are packed along it"


@dataclass(frozen=True)
class Cell:
    """Parameters of one layer in one direction.

    Attributes:
        inward: ``(gates * hidden, input)``.
        hidden: ``(gates * hidden, state)``.
        biases: of shape ``(gates * hidden,)``.
        projection: ``(state, hidden)``; without one the state is the hidden one.
    """

    inward: fx.Node
    hidden: fx.Node
    biases: tuple[fx.Node, ...]
    projection: fx.Node | None = None


def tie_cell(t: Ties, cell: Cell, gates: int, source: Dim, state: Dim, memory: Dim) -> None:
    """State that every gate of a cell has the memory's dimension, which the parameters produce.

    Without a projection the state's dimension is the memory's. With one the operator knows it by their sizes alone, so
    neither may shrink: they could become equal.
    """
    inward, hidden = t.dims(cell.inward), t.dims(cell.hidden)
    t.mix([memory, state])
    t.tie(source, inward[1])
    t.tie(state, hidden[1])
    if cell.projection is None:
        t.tie(state, memory)
    else:
        for dim, other in zip((state, memory), t.dims(cell.projection), strict=True):
            t.tie(dim, other)
            t.freeze(dim, "its size tells the operator that there is a projection")
    for rows in (inward[0], hidden[0], *(t.dims(bias)[0] for bias in cell.biases)):
        t.tie(t.concatenate([t.resolve(memory)] * gates), rows)
    if t.is_weight(cell.hidden):
        t.produce(memory)
        t.mark(memory, "state")


def _cells(t: Ties) -> list[Cell]:
    """Parameters by layer and direction, in the operator's order."""
    parameters: Sequence[fx.Node] = t["params"]
    plain = 4 if t["has_biases"] else 2
    count = len(parameters) // (int(t["num_layers"]) * (2 if t["bidirectional"] else 1))
    chunks = [parameters[start : start + count] for start in range(0, len(parameters), count)]
    return [
        Cell(chunk[0], chunk[1], tuple(chunk[2:plain]), chunk[plain] if count > plain else None) for chunk in chunks
    ]


def _states(t: Ties) -> list[fx.Node]:
    return list(t["hx"]) if isinstance(t["hx"], list | tuple) else [t["hx"]]


def network(gates: int, operand: str = "input") -> Callable[[Ties], Output]:
    """A rule for ``input: (..., T, ..., input)`` and states ``(layers * directions, ..., hidden)``.

    The operand of a packed sequence is ``data: (steps, input)``, the steps of all sequences below each other.

    The first state of an LSTM with projections has a last dimension of its own.

    All layers and directions keep their states in one tensor, so they share the hidden dimension. A removed unit's
    gates do not reach the others, whatever its state is; the state has the dimension too, so that it is sliced with it.
    """

    def state(t: Ties) -> Output:
        cells = _cells(t)
        source, states = t.dims(operand), [t.dims(item) for item in _states(t)]
        shared = t.broadcast(*(dims[:-1] for dims in states))
        (hidden, memory), layers = (states[0][-1], states[-1][-1]), shared[0]
        t.freeze(layers, "layers and directions of a recurrent network")
        t.freeze(source[1 if len(source) == 3 and t["batch_first"] else 0], TIME)
        if len(source) == 3:
            t.tie(source[0 if t["batch_first"] else 1], shared[1])
        directions = 2 if t["bidirectional"] else 1
        for position, cell in enumerate(cells):
            first = position < directions
            feed = source[-1] if first else t.concatenate([t.resolve(hidden)] * directions)
            tie_cell(t, cell, gates, feed, hidden, memory)
        out = [*source[:-1], t.concatenate([t.resolve(hidden)] * directions)]
        finals: list[Output] = [[t.resolve(dim) for dim in (*shared, dims[-1])] for dims in states]
        return [[t.resolve(dim) for dim in out], *finals]

    return state


def single(gates: int) -> Callable[[Ties], Output]:
    """A rule for one step: ``input: (N, input)`` and states ``(N, hidden)``."""

    def state(t: Ties) -> Output:
        states = t.broadcast(*(t.dims(item) for item in _states(t)))
        biases = tuple(t[name] for name in ("b_ih", "b_hh") if t.has(name))
        source = t.dims("input")
        t.broadcast(source[:-1], states[:-1])
        tie_cell(t, Cell(t["w_ih"], t["w_hh"], biases), gates, source[-1], states[-1], states[-1])
        out: list[Output] = [[t.resolve(dim) for dim in states] for _ in _states(t)]
        return out if gates == GATES["lstm"] else out[0]

    return state


def _network_sample(name: str) -> Sample:
    gates, operator = GATES[name], getattr(aten, name).input

    def call(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
        state = x.new_zeros(1, x.shape[0], 4)
        states = [state, state] if name == "lstm" else state
        out: Tensor = operator(x, states, [w_ih, w_hh, b_ih, b_hh], True, 1, 0.0, False, False, True)[0]
        return out

    rows = gates * 4
    return Sample(call, ((3, 6),), {"w_ih": (rows, 6), "w_hh": (rows, 4), "b_ih": (rows,), "b_hh": (rows,)})


def _packed_sample(name: str) -> Sample:
    gates, operator = GATES[name], getattr(aten, name).data

    def call(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
        state = x.new_zeros(1, x.shape[0], 4)
        states = [state, state] if name == "lstm" else state
        steps, rows = torch.full((3,), x.shape[0]), x.transpose(0, 1).flatten(0, 1)
        result = operator(rows, steps, states, [w_ih, w_hh, b_ih, b_hh], True, 1, 0.0, False, False)
        out: Tensor = result[0]
        return out.reshape(3, -1, 4).transpose(0, 1)

    rows = gates * 4
    return Sample(call, ((3, 6),), {"w_ih": (rows, 6), "w_hh": (rows, 4), "b_ih": (rows,), "b_hh": (rows,)})


def _cell_sample(name: str) -> Sample:
    gates, operator = GATES[name], getattr(aten, f"{name}_cell").default

    def call(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
        states = [h, torch.tanh(h)] if name == "lstm" else h
        out = operator(x, states, w_ih, w_hh, b_ih, b_hh)
        value: Tensor = out[0] if name == "lstm" else out
        return value

    rows = gates * 4
    return Sample(call, ((6,), (4,)), {"w_ih": (rows, 6), "w_hh": (rows, 4), "b_ih": (rows,), "b_hh": (rows,)})


for _name, _gates in GATES.items():
    coupling_rule(f"aten.{_name}.input", sample=_network_sample(_name), zeros="joined")(network(_gates))
    coupling_rule(f"aten.{_name}.data", sample=_packed_sample(_name), zeros="joined")(network(_gates, "data"))
    coupling_rule(f"aten.{_name}_cell.default", sample=_cell_sample(_name), zeros="joined")(single(_gates))


def _packed(x: Tensor) -> Tensor:
    lengths = torch.arange(x.shape[0], 0, -1).clamp(max=3)
    data, steps = aten._pack_padded_sequence.default(x, lengths, True)
    out: Tensor = aten._pad_packed_sequence.default(torch.tanh(data), steps, True, 0.0, 3)[0]
    return out


_SEQUENCES = Sample(_packed, ((3, 6),))


@coupling_rule("aten._pack_padded_sequence.default", sample=_SEQUENCES, zeros="keeps")
def pack(t: Ties) -> Output:
    """Two dimensions, of sequences and their steps, become one; the others are kept."""
    dims = t.dims("input")
    for dim in dims[:2]:
        t.freeze(dim, PACKED)
    (rows, *_), (steps,) = t.out_shape
    return [[t.frozen(rows, PACKED), *dims[2:]], [t.frozen(steps, PACKED)]]


@coupling_rule("aten._pad_packed_sequence.default", sample=_SEQUENCES)
def unpack(t: Ties) -> Output:
    """One dimension becomes the two of sequences and their steps again; the others are kept."""
    rows, *others = t.dims("data")
    t.freeze(rows, PACKED)
    (first, second, *_), (count,) = t.out_shape
    return [[t.frozen(first, PACKED), t.frozen(second, PACKED), *others], [t.frozen(count, PACKED)]]
