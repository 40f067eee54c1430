"""Options are checked, and what cannot be met is an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backend.models import Recorder, perceptron, row

from graphopt.backend.options import BackendOptions, read_options
from graphopt.errors import SpecError

WRONG = [
    ({"iner": "eager"}, "found no option called 'iner'; did you mean inner?; the options are inner, passes, cache"),
    ({"inner": "inducter"}, "option inner: found 'inducter'; did you mean inductor?"),
    ({"inner": "graphopt"}, "option inner: found 'graphopt'"),
    ({"inner": None}, "option inner: found None, wanted the name of a backend"),
    ({"passes": ""}, "option passes: found '', wanted the text of a pipeline"),
    ({"passes": "remove-deed"}, "found no pass called 'remove-deed'"),
    ({"cache": 3}, "option cache: found 3, wanted the text of a pipeline of caching passes, or None"),
    ({"cache": "deepcache{intervall=3}"}, "intervall"),
    ({"skip": "blocks.1"}, "option skip: found 'blocks.1', wanted a list of names"),
    ({"skip": [1]}, "option skip"),
    ({"fuel": -1}, "option fuel: found -1, wanted a number of rewrites from 0 up, or None"),
    ({"fuel": True}, "option fuel"),
    ({"verify": 1}, "option verify: found 1, wanted true or false"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        read_options(options)
    assert message in str(error.value)


def test_defaults() -> None:
    assert read_options(None) == BackendOptions(
        inner="inductor", passes="remove-dead", cache=None, skip=(), fuel=None, verify=True
    )
    assert read_options({"skip": ["a", "b"]}).explicit == ("skip",)
    assert read_options({"cache": "deepcache{interval=3},hoist-invariants"}).explicit == ("cache",)


@pytest.mark.parametrize("passes", ["prune-channels{ratio=0.5}", "remove-dead,prune-layers{ratio=0.25}"])
def test_passes_that_change_the_model_are_refused(passes: str) -> None:
    lossy = passes.rpartition("dead,")[2]
    with pytest.raises(SpecError) as error:
        read_options({"passes": passes})
    name = lossy.partition("{")[0]
    assert str(error.value) == (
        f"option passes: {name} is no exact rewrite of one program, wanted exact passes only; call result = "
        f"graphopt.optimize(model, args, passes='{lossy}') and compile result.module(), or give a caching pass as "
        "the option cache"
    )


@torch.no_grad()
def test_errors_reach_the_caller(recorder: Recorder) -> None:
    fast = torch.compile(perceptron(), backend="graphopt", options={"inner": "recorder", "fule": 3})
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="SpecError: found no option called 'fule'"):
        fast(row())
    assert recorder.graphs == []


@torch.no_grad()
def test_modes_are_refused() -> None:
    fast = torch.compile(perceptron(), backend="graphopt", mode="reduce-overhead")
    with pytest.raises(
        torch._dynamo.exc.BackendCompilerFailed, match="mode='reduce-overhead', which is inductor's own"
    ):
        fast(row())
