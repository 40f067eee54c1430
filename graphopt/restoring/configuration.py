"""One configuration that describes a smaller model, where there is one."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from graphopt.capture_failure import Attempt, summary
from graphopt.errors import ModuleRestoreError
from graphopt.restoring.places import Rebuild, is_holder, number_at
from graphopt.restoring.solving import Demand, solve
from graphopt.restoring.tracked import Expression, Place, TrackedInt, expression_of


@dataclass(frozen=True)
class Recipe:
    """How a class is built from its configuration.

    Attributes:
        kind: the class.
        config: its configuration: an object that the class takes, or a mapping of keyword arguments.
    """

    kind: type[nn.Module]
    config: Any

    @classmethod
    def of(cls, model: nn.Module) -> Recipe:
        """The recipe of a model.

        Raises:
            ModuleRestoreError: it has none.
        """
        config = getattr(model, "config", None)
        if config is None or not is_holder(config):
            raise ModuleRestoreError(f"{type(model).__name__} has no configuration that it could be built from")
        return cls(type(model), dict(config) if isinstance(config, Mapping) else config)

    def with_numbers(self, numbers: Mapping[Place, int]) -> Recipe:
        """The recipe with other numbers in its configuration; all of them are written anew."""
        return Recipe(self.kind, Rebuild(lambda place, number: numbers.get(place, number))(ROOT, self._copied()))

    def with_floats(self, floats: Mapping[float, float]) -> Recipe:
        """The recipe with other floats in its configuration, wherever the old ones stand."""
        if not floats:
            return self
        return Recipe(self.kind, Rebuild(lambda _, held: floats.get(held, held), float)(ROOT, self._copied()))

    def build(self) -> nn.Module:
        """Build the class from a copy of the configuration."""
        if isinstance(self.config, dict):
            named = {name: value for name, value in self._copied().items() if not name.startswith("_")}
            return self.kind(**named)
        return self.kind(self._copied())

    def _copied(self) -> Any:
        return copy.deepcopy(self.config)


ROOT = Place("config", ())


def fitting(model: nn.Module, restored: nn.Module, read: Collection[Place]) -> Recipe:
    """The recipe that gives a class the sizes of a smaller model.

    The class is built once, without weights, from a configuration whose integers remember where they came from; what
    reaches the shape of a parameter, or an attribute of a module, is solved for them.

    Args:
        model: the user's model.
        restored: the smaller one, of the same class.
        read: places whose numbers its code reads when it runs.

    Raises:
        ModuleRestoreError: no configuration describes it; the message names a parameter that differs.
    """
    recipe = Recipe.of(model)
    numbers: dict[Place, int] = {}

    def tracked(place: Place, number: int) -> int:
        numbers[place] = number
        return TrackedInt(number, place)

    shapes = _Shapes()
    with Attempt() as attempt:
        rebuilt = Recipe(recipe.kind, Rebuild(tracked)(ROOT, recipe.config))
        with torch.device("meta"), shapes:
            built = rebuilt.build()
        demands = [*_of_shapes(built, restored, shapes), *_of_attributes(built, restored, read)]
        found = recipe.with_numbers(solve(demands, numbers, lambda _: None).values)
        with torch.device("meta"):
            again = found.build()
    if attempt.failure is not None:
        raise ModuleRestoreError(
            f"{recipe.kind.__name__} is not built from its configuration alone: {summary(attempt.failure)}"
        ) from attempt.failure
    _require_shapes(again, restored)
    return found


class _Shapes(TorchFunctionMode):
    """Remembers from which numbers each storage was made."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[Tensor, tuple[Expression, ...]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function; note the sizes that a factory was given."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not any(isinstance(one, Tensor) for one in args):
            sizes = args[0] if len(args) == 1 and isinstance(args[0], list | tuple) else args
            sizes = (kwargs or {}).get("size", sizes)
            if all(isinstance(size, int) for size in sizes) and tuple(result.shape) == tuple(sizes):
                expressions = tuple(map(expression_of, sizes))
                self._made[result.untyped_storage()._cdata] = (result, expressions)
        return result

    def of(self, tensor: Tensor) -> tuple[Expression, ...]:
        """The sizes that a tensor was made with, empty where that is not known."""
        found = self._made.get(tensor.untyped_storage()._cdata)
        return () if found is None or found[0].shape != tensor.shape else found[1]


def _of_shapes(built: nn.Module, restored: nn.Module, shapes: _Shapes) -> Iterator[Demand]:
    wanted = dict(restored.named_parameters())
    for name, parameter in built.named_parameters():
        if name in wanted:
            sizes = zip(shapes.of(parameter), parameter.shape, wanted[name].shape, strict=False)
            yield from (Demand(expression, before, after) for expression, before, after in sizes)


def _of_attributes(built: nn.Module, restored: nn.Module, read: Collection[Place]) -> Iterator[Demand]:
    """Yield that numbers which came from the configuration are what they are in the smaller model.

    Those that the model's code reads when it runs are right there; others may be left over from the larger one.
    """
    direct = (Place(name, (("attribute", key),)) for name, module in built.named_modules() for key in module.__dict__)
    for place in dict.fromkeys([*read, *direct]):
        value, wanted = number_at(built, place), number_at(restored, place)
        if isinstance(value, TrackedInt) and wanted is not None:
            is_read = place in read
            yield Demand(value.expression, int(value), wanted, soft=not is_read, trusted=is_read)


def _require_shapes(built: nn.Module, restored: nn.Module) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in restored.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    left_out = next((name for name in found if name not in wanted), None)
    if left_out is not None:
        raise ModuleRestoreError(f"no configuration describes the result: it does without {left_out}")
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise ModuleRestoreError(
                f"no configuration describes the result: {name} is {list(shape)}, and the nearest configuration gives "
                f"it {list(found.get(name, ()))}; prune with uniform_per_layer=true for one that does"
            )
