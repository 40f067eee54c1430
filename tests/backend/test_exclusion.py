"""Graphs that are traced when they are called, while other threads compile and call."""

from __future__ import annotations

import threading
from typing import Any

import torch
from backend.models import perceptron, row
from torch.fx import _symbolic_trace

ROUNDS = 20


def test_several_threads_with_several_models() -> None:
    models = [perceptron(seed) for seed in range(4)]
    fast = [torch.compile(model, backend="graphopt", options={"inner": "eager"}) for model in models]
    wanted = [model(row()).detach() for model in models]
    with torch.no_grad():
        fast[0](row())
    failures: list[object] = []

    def work(first: int) -> None:
        for number in range(first, first + ROUNDS):
            _call(fast[number % 4], wanted[number % 4], failures)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not _symbolic_trace._is_fx_tracing_flag


def _call(model: Any, wanted: torch.Tensor, failures: list[object]) -> None:
    try:
        with torch.no_grad():
            torch.testing.assert_close(model(row()), wanted)
    except (RuntimeError, AssertionError) as error:
        failures.append(error)
