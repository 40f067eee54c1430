"""What a program asks about its inputs' data, asked by a model of the user's class too."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from graphopt.input_check import InputCheck, bound_arguments
from graphopt.program import Program


class Asked:
    """A pre-hook that asks again what the model's code was told about data when it was captured.

    Branches that the example did not take were not captured, so nothing of them was rewritten: the smaller model would
    run them over units that the other branch does not keep.

    Args:
        check: of the program.
        names: what the model calls the captured arguments, in their order.
    """

    def __init__(self, check: InputCheck, names: tuple[str, ...]) -> None:
        self._check = check
        self._names = names

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Ask; a call that does not fit the signature, or leaves a captured argument out, is left to the model.

        Raises:
            GraphoptError: the data decide otherwise.
        """
        given = bound_arguments(module, args, kwargs) or {}
        for name, parameter in inspect.signature(module.forward).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
        if all(name in given for name in self._names):
            self._check.ask_named({name: given[name] for name in self._names})


def let_ask(module: nn.Module, program: Program) -> nn.Module:
    """Let a model ask what its program asks, if it asks anything.

    Args:
        module: of the user's class; it computes what the program computes.
        program: perhaps with assumptions about the inputs' data.
    """
    if program.assumptions is not None:
        positional = list(inspect.signature(module.forward).parameters)[: len(program.args)]
        asked = Asked(program.input_check(), (*positional, *program.kwargs))
        module.register_forward_pre_hook(asked, with_kwargs=True)
    return module
