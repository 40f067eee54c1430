"""What torch.compile calls: a graph that knows what it was made from, and what to do when that changes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphopt.backend.analysis import LOG, analyse
from graphopt.backend.arrival import Arrival, Kind
from graphopt.backend.cached import CachedPrograms, active_session
from graphopt.backend.exclusion import compiling
from graphopt.backend.guard import TensorGuard
from graphopt.backend.handing import compile_later
from graphopt.backend.options import BackendOptions
from graphopt.errors import GraphoptError

Call = Callable[..., Any]
Compile = Callable[[fx.GraphModule], Call]

MODELS = 16
"""How many sets of parameters a graph is rewritten for; further ones run as they are."""


@dataclass(eq=False)
class Variant:
    """What became of a graph for the parameters of one model.

    Attributes:
        run: What is called while the guard holds.
        guard: Watches the parameters; None where what is called reads them anew at each call.
        cached: Programs of the cache, where one was asked for.
        read: The parameters and buffers.
    """

    run: Call
    guard: TensorGuard | None = None
    cached: CachedPrograms | None = None
    read: tuple[weakref.ref[Tensor], ...] = ()

    def reads(self, tensors: Collection[int]) -> bool:
        """Tell whether one of some tensors, given by `id`, is among the parameters, or one of those is gone."""
        found = (reference() for reference in self.read)
        return any(tensor is None or id(tensor) in tensors for tensor in found)

    def release(self) -> None:
        """Let go of all that was made of the parameters."""
        self.cached = None
        if self.guard is not None:
            self.run = _gone


class CompiledGraph:
    """A compiled graph of torch.compile, which serves every model of a class.

    A call finds what was made for its model by one of the parameters. Where the graph was rewritten it looks first
    whether all of them are those that it was made from; if one is not, the graph that arrived is compiled and called
    instead. Inside a cache session the programs of the cache are called.

    Args:
        arrival: The graph that arrived; it reads a parameter or buffer.
        options: Options of the backend.
        args: The example arguments.
        compile_graph: Compiles a graph while torch.compile is at work.

    Raises:
        GraphoptError: An option that asks for more than exact rewrites cannot be met.
    """

    def __init__(self, arrival: Arrival, options: BackendOptions, args: Sequence[Any], compile_graph: Compile) -> None:
        self._arrival = arrival
        self._options = options
        self._lock = threading.RLock()
        self._places = arrival.positions(Kind.STATIC)
        self._key = next(iter(self._places), 0)
        self._variants: dict[int, Variant] = {}
        self._base = arrival.graph_module
        self._plain: Call | None = None
        self._left = MODELS
        self._meet(args, compile_graph)
        LIVE.add(self)

    def __call__(self, *args: Any) -> Any:
        """Run the graph."""
        session = None if self._options.cache is None else active_session()
        if session is not None:
            return session.run(self, args)
        variant = self._variants.get(id(args[self._key]))
        if variant is None:
            variant = self._meet(args, self._later)
        elif variant.guard is not None and not variant.guard.holds(args):
            variant = self._changed(args)
        gradients = torch.is_grad_enabled()
        try:
            return variant.run(*args)
        except BaseException:
            torch.set_grad_enabled(gradients)  # a graph that failed half-way has not switched them on again
            raise

    def cached(self, args: Sequence[Any]) -> CachedPrograms:
        """Return the programs of the cache for the parameters among some arguments, made anew where those changed.

        Raises:
            GraphoptError: They cannot be made.
        """
        with compiling(), self._lock:
            variant = self._variants.get(id(args[self._key]))
            if variant is None or variant.cached is None or not variant.cached.holds(args):
                self._variants.pop(id(args[self._key]), None)
                variant = self._meet(args, self._later)
            if variant.cached is None:
                raise GraphoptError(
                    f"{self._arrival} was called with the parameters of more than {MODELS} models, and keeps cached "
                    "programs for no more; call torch._dynamo.reset() and compile again"
                )
            return variant.cached

    def forget(self, tensors: Collection[int] | None = None) -> bool:
        """Forget what was made of the graph for models that have some tensors, given by `id`; for all by default.

        Returns:
            Whether there was something.
        """
        with self._lock:
            found = [key for key, one in self._variants.items() if tensors is None or one.reads(tensors)]
            for key in found:
                self._variants.pop(key)
            self._left = MODELS
        return bool(found)

    def _meet(self, args: Sequence[Any], compile_graph: Compile) -> Variant:
        """Return what is made of the graph for a model that was not seen before."""
        with compiling(), self._lock:
            key = id(args[self._key])
            if key not in self._variants and self._left:
                self._left -= 1
                self._variants[key] = self._made(args, compile_graph)
            return self._variants.get(key) or Variant(self._unguarded(self._later))

    def _made(self, args: Sequence[Any], compile_graph: Compile) -> Variant:
        made = analyse(self._arrival, args, self._options)
        if made is None:
            return self._watched(args, Variant(self._unguarded(compile_graph)))
        self._base = made.base
        guard = TensorGuard({place: args[place] for place in self._places})
        cached = None
        if made.cached is not None:
            cached = CachedPrograms(made.cached, guard, made.inputs, self._options.inner)
        if made.graph_module is None:
            LOG.debug("%s: nothing was proved dead\n%s", self._arrival, made.report)
            return self._watched(args, Variant(self._unguarded(compile_graph), cached=cached))
        LOG.info("%s was rewritten:\n%s", self._arrival, made.report)
        return self._watched(args, Variant(compile_graph(made.graph_module), guard, cached))

    def _changed(self, args: Sequence[Any]) -> Variant:
        """Return what is called for a model from now on, after a change of its parameters."""
        with compiling(), self._lock:
            variant = self._variants.get(id(args[self._key]))
            if variant is None or variant.guard is None or variant.guard.holds(args):
                return self._meet(args, self._later)
            LOG.info("%s: a parameter has changed; the graph runs as it arrived from now on", self._arrival)
            self._variants[id(args[self._key])] = self._watched(args, Variant(self._unguarded(self._later)))
            return self._variants[id(args[self._key])]

    def _unguarded(self, compile_graph: Compile) -> Call:
        """Return the graph as it arrived, or without what was skipped, compiled once."""
        if self._plain is None:
            self._plain = compile_graph(self._base)
        return self._plain

    def _later(self, graph_module: fx.GraphModule) -> Call:
        return compile_later(graph_module, self._options.inner)

    def _watched(self, args: Sequence[Any], variant: Variant) -> Variant:
        """Let a variant know what it reads, and have it let go once a parameter is gone; it keeps none alive."""
        key, graph, one = id(args[self._key]), weakref.ref(self), weakref.ref(variant)

        def lost(_: Any) -> None:
            owner, gone = graph(), one()
            if gone is not None:
                gone.release()
            if gone is not None and owner is not None and gone.read[0]() is None:
                owner._drop(key, gone)

        variant.read = tuple(weakref.ref(args[place], lost) for place in self._places)
        return variant

    def _drop(self, key: int, variant: Variant) -> None:
        if self._variants.get(key) is variant:
            del self._variants[key]


LIVE: weakref.WeakSet[CompiledGraph] = weakref.WeakSet()
"""Every graph that may be called."""


def invalidate(model: nn.Module) -> int:
    """Have every compiled graph that reads a tensor of a model analysed anew at its next call.

    Writes to parameters are seen by themselves, and so are new parameters. What is written past torch's count of writes
    is not: through ``parameter.data``, NumPy, DLPack or the storage, by another process that shares the memory, or by a
    collective of torch.distributed. After a change a graph that was rewritten runs as it arrived until it is analysed
    anew.

    Args:
        model: The model, compiled or not, or a part of it.

    Returns:
        How many graphs that are.
    """
    tensors = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    return sum(graph.forget(tensors) for graph in list(LIVE))


def forget_all() -> None:
    """Forget what was made of every graph."""
    for graph in list(LIVE):
        graph.forget()
    LIVE.clear()


def _gone(*args: Any) -> Any:
    """Stand for what was made of parameters that are gone; no guard lets a call come here."""
    raise GraphoptError("a graph was called whose parameters are gone; please report it")
