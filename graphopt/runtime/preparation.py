"""Sessions made for the inputs that a model is called with: one for each structure and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphopt.errors import CaptureError, GraphoptError
from graphopt.example_inputs import ExampleInputs
from graphopt.input_check import PLAIN, InputCheck
from graphopt.pass_manager import PassContext, Pipeline, Result
from graphopt.program import Program
from graphopt.runtime.session import CacheSession
from graphopt.schedule import FULL
from graphopt.tracing import capture

KEPT = 4
"""Sessions kept for inputs of different structure or size."""
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A session and what it was made for.

    Attributes:
        session: plays the programs.
        layout: structure of the inputs and what of each may not change.
        full: takes the model's own inputs.
        check: refuses sizes that it was not made for.
    """

    session: CacheSession
    layout: tuple[Any, ...]
    full: nn.Module
    check: InputCheck

    def fits(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Tell whether the programs take these inputs."""
        try:
            self.check(self.full, args, kwargs)
        except GraphoptError:
            return False
        return True


class Preparation:
    """Makes a session at the first call with inputs of some structure, and finds it again at the next.

    Numbers, flags and None among the inputs are constants of a program, as are all sizes except the batch. The model is
    captured anew where its tensors are no longer those that were captured: moved, cast, or an adapter added.

    A result has one session, for all inputs that it was made for; it cannot follow tensors that were moved.

    Args:
        model: the model.
        passes: what is run on it, or the result of having run them.
        context: data and seed for the passes.
    """

    def __init__(self, model: nn.Module, passes: Pipeline | Result, context: PassContext | None) -> None:
        self._model = model
        self._passes = passes
        self._context = context
        self._prepared: list[Prepared] = []
        self._tensors = tensors_of(model)
        self._stale = False

    @property
    def sessions(self) -> tuple[CacheSession, ...]:
        """The sessions, the last used one at the end."""
        return tuple(prepared.session for prepared in self._prepared)

    def refresh(self) -> None:
        """Drop what was made from tensors that the model no longer has; a result cannot be made again, and is refused.

        Raises:
            GraphoptError: there is a result, and the model has other tensors than when the cache was enabled.
        """
        tensors = tensors_of(self._model)
        if isinstance(self._passes, Result):
            self._stale = tensors != self._tensors
            self._require_fresh()
        elif tensors != self._tensors:
            self._prepared.clear()
            self._tensors = tensors

    def find(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], started: Callable[[CacheSession], None]
    ) -> CacheSession:
        """The session for a call.

        Args:
            args: the call's positional inputs.
            kwargs: its keyword inputs.
            started: called with a session that is made now.

        Raises:
            GraphoptError: the model cannot be captured, or a pass refuses it; or a result was not made for the inputs.
        """
        self._require_fresh()
        if self._prepared and isinstance(self._passes, Result):
            return self._prepared[0].session  # it refuses by itself what it was not made for
        layout = layout_of(args, kwargs)
        for place, prepared in enumerate(self._prepared):
            if prepared.layout == layout and prepared.fits(args, kwargs):
                self._prepared.append(self._prepared.pop(place))
                return prepared.session
        prepared = self._make(args, kwargs, layout)
        started(prepared.session)
        self._prepared = [*self._prepared, prepared][-KEPT:]
        return prepared.session

    def _require_fresh(self) -> None:
        if self._stale:
            raise GraphoptError(
                f"the tensors of {type(self._model).__name__} were moved, cast or replaced after the cache was enabled "
                "with a result, which still has the old ones; run the passes again, or enable the cache with their text"
            )

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any], layout: tuple[Any, ...]) -> Prepared:
        try:
            result = self._result(args, kwargs)
            full = full_program(result)
            leaves = ExampleInputs(full.args, dict(full.kwargs)).leaves()
            check = InputCheck(full.graph_module, leaves, full.assumptions)
            check(full.graph_module, args, kwargs)
            return Prepared(CacheSession(result), layout, full.graph_module, check)
        except GraphoptError as error:
            error.add_note(
                f"while the cache of {type(self._model).__name__} was prepared, at its first call of this kind"
            )
            raise

    def _result(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Result:
        if isinstance(self._passes, Result):
            return self._passes
        require_own_forward(self._model)
        with torch.inference_mode(False), torch.no_grad():
            example_args, example_kwargs = pytree.tree_map(_plain, (args, kwargs))
            program = capture(self._model, example_args, example_kwargs)
            return self._passes.run(program, self._context)


def full_program(result: Result) -> Program:
    """The program of a result that takes the model's own inputs."""
    return result.programs.get(FULL, result.program)


def tensors_of(model: nn.Module) -> tuple[tuple[str, int, torch.dtype, torch.device], ...]:
    """Where the model's tensors lie, by name."""
    named = (*model.named_parameters(), *model.named_buffers())
    return tuple((name, _address(tensor), tensor.dtype, tensor.device) for name, tensor in named)


def require_own_forward(model: nn.Module) -> None:
    """Refuse a model whose modules run something else than their class says.

    Raises:
        CaptureError: one does: an offloading hook or another cache has replaced its `forward`.
    """
    replaced = [name or "the model itself" for name, module in model.named_modules() if "forward" in vars(module)]
    if replaced:
        raise CaptureError(
            f"forward of {', '.join(replaced[:3])}{' and others' if len(replaced) > 3 else ''} was replaced on the "
            "instance, as hooks of offloading libraries and of other caches do; wanted the clean model: take the hooks "
            "out, then enable the cache"
        )


def layout_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two calls must have in common to be run by the same programs, the sizes of dimension 0 aside."""
    leaves, structure = pytree.tree_flatten((args, dict(kwargs)))
    return structure, tuple(map(_leaf, leaves))


def _leaf(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, Tensor):
        return Tensor, leaf.dtype, leaf.device, leaf.ndim, tuple(leaf.shape[1:])
    return (type(leaf), leaf) if isinstance(leaf, PLAIN) else (type(leaf), id(leaf))


def _plain(leaf: Any) -> Any:
    """Inputs made under inference mode cannot be captured; a copy can."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
