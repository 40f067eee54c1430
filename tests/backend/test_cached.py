"""Compiled models use their caches inside sessions only, step by step as a CacheSession does."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from typing import Any

import pytest
import torch
from backend.models import Recorder, perceptron, row
from caching.tiny import Skips, images, skips, stack, tokens
from torch import Tensor, nn

import graphopt
from graphopt.errors import GraphoptError

DEEP = "deepcache{interval=3}"
CASES = {
    DEEP: (skips, images),
    "deepcache{interval=3},hoist-invariants": (skips, images),
    'insert-cache{cuts=["blocks.1"],kind=residual,schedule=uniform:3,warm_up=2,predictor=linear}': (stack, tokens),
    "first-block{threshold=0.2}": (stack, tokens),
}


def compiled(model: nn.Module, cache: str = DEEP, inner: str = "eager", **settings: Any) -> Any:
    return torch.compile(model, backend="graphopt", options={"inner": inner, "cache": cache}, **settings)


def played(model: nn.Module, cache: str, steps: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """What a CacheSession gives at each step."""
    session = graphopt.CacheSession(graphopt.optimize(model, steps[0], passes=cache))
    return [session(*step) for step in steps]


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
@pytest.mark.parametrize("cache", CASES)
def test_steps_are_those_of_a_session(cache: str, inner: str) -> None:
    make, inputs = CASES[cache]
    model, steps = make(), [inputs(step) for step in range(7)]
    fast = compiled(model, cache, inner)
    before = [fast(*step) for step in steps[:2]]
    with graphopt.cache_session() as session:
        found = [fast(*step) for step in steps]
        cached = [decision.program for decision in session.decisions].count("full") < len(steps)
        assert session.cache_bytes > 0
    for one, other in zip(found, played(make(), cache, steps), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert cached
    assert any(not torch.equal(one, model(*step)) for one, step in zip(found, steps, strict=True))
    for one, step in zip((*before, fast(*steps[5])), (*steps[:2], steps[5]), strict=True):
        torch.testing.assert_close(one, model(*step), rtol=1e-5, atol=1e-6)


def test_sessions_apart_and_within() -> None:
    fast = compiled(skips())
    steps = [images(step) for step in range(3)]
    wanted = played(skips(), DEEP, steps)
    with graphopt.cache_session() as outer:
        torch.testing.assert_close(fast(*steps[0]), wanted[0])
        with graphopt.cache_session() as inner:
            for step, output in zip(steps, wanted, strict=True):
                torch.testing.assert_close(fast(*step), output)
        torch.testing.assert_close(fast(*steps[1]), wanted[1])
    assert [decision.program for decision in inner.decisions] == ["full", "cached", "cached"]
    assert [decision.program for decision in outer.decisions] == ["full", "cached"]


def test_threads_have_sessions_of_their_own() -> None:
    fast = compiled(skips())
    steps = [images(step) for step in range(3)]
    wanted, plain = played(skips(), DEEP, steps), [skips()(*step) for step in steps]
    fast(*steps[0])
    found: dict[str, list[Tensor]] = {}

    def work(name: str, *, cached: bool) -> None:
        if not cached:
            found[name] = [fast(*step) for step in steps]
            return
        with graphopt.cache_session():
            found[name] = [fast(*step) for step in steps]

    with graphopt.cache_session():
        threads = [threading.Thread(target=work, args=(f"{cached}",), kwargs={"cached": cached}) for cached in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for one, other in zip(found["0"] + found["1"], plain + wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_branches_and_reset() -> None:
    fast = compiled(skips())
    steps = [images(step) for step in range(4)]
    with graphopt.cache_session(steps=4) as session:
        for step in steps[:2]:
            fast(*step)
            with session.branch("unconditional"):
                fast(*step)
        assert [(one.branch, one.step, one.program) for one in session.decisions] == [
            ("", 0, "full"),
            ("unconditional", 0, "full"),
            ("", 1, "cached"),
            ("unconditional", 1, "cached"),
        ]
        held = session.cache_bytes
        session.reset()
        assert session.decisions == []
        assert session.cache_bytes == 0 < held
        fast(*steps[0])
        assert [one.program for one in session.decisions] == ["full"]


def test_another_batch_is_a_miss() -> None:
    model = skips()
    fast = compiled(model, "deepcache{interval=9}")
    with graphopt.cache_session() as session:
        for step, batch in enumerate((2, 2, 3, 3, 2, 2)):
            found = fast(*images(step, batch))
            if session.decisions[-1].program == "full":
                torch.testing.assert_close(found, model(*images(step, batch)), rtol=1e-5, atol=1e-6)
    assert [one.program for one in session.decisions] == ["full", "cached", "full", "cached", "full", "cached"]


@torch.no_grad()
def test_new_weights_start_anew() -> None:
    model = skips()
    fast = compiled(model)
    with graphopt.cache_session() as session:
        for step in range(2):
            fast(*images(step))
        model.head.weight.add_(1)
        torch.testing.assert_close(fast(*images(2)), model(*images(2)))
        fast(*images(3))
    assert [one.program for one in session.decisions] == ["full", "cached", "full", "cached"]


@torch.no_grad()
def test_pruned_and_cached(caplog: pytest.LogCaptureFixture) -> None:
    model = skips()
    model.entry.weight[:4] = 0
    model.entry.bias[:4] = 0
    steps = [images(step) for step in range(3)]
    fast = compiled(model)
    with caplog.at_level(logging.INFO, "graphopt.backend"), graphopt.cache_session():
        found = [fast(*step) for step in steps]
    assert "4 of 8 indices of the channel axis entry.weight:0 are dead" in caplog.text
    for one, other in zip(found, played(model, DEEP, steps), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_gradients_inside_a_session() -> None:
    model = skips().requires_grad_(True)
    fast = compiled(model)
    fast(*images()).sum().backward()
    assert model.head.weight.grad is not None
    with graphopt.cache_session(), pytest.raises(GraphoptError, match=r"under torch.no_grad\(\)"):
        fast(*images())


def test_steps_of_a_model_without_gradients_of_its_own() -> None:
    class Frozen(Skips):
        @torch.no_grad()
        def forward(self, *args: Tensor) -> Tensor:
            return super().forward(*args)

    model = Frozen().eval()
    model.load_state_dict(skips().state_dict())
    fast = compiled(model)
    with graphopt.cache_session() as session:
        outputs = [fast(*images(step)) for step in range(2)]
    assert [one.program for one in session.decisions] == ["full", "cached"]
    assert not any(output.requires_grad for output in outputs)


@pytest.mark.parametrize(
    ("model", "inputs", "cache", "message"),
    [
        (stack, tokens, DEEP, "deepcache: Stack has 0 long skips|has 0 long skips"),
        (skips, images, f"prune-channels{{ratio=0.5}},{DEEP}", "makes no schedule, wanted caching passes only"),
        (skips, images, "remove-dead", "makes no schedule"),
    ],
)
def test_caches_that_cannot_be(model: Any, inputs: Any, cache: str, message: str) -> None:
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=message):
        compiled(model(), cache)(*inputs())


@torch.no_grad()
def test_a_model_without_the_option_is_left_alone(recorder: Recorder) -> None:
    model = perceptron()
    fast = torch.compile(model, backend="graphopt", options={"inner": "recorder"})
    with graphopt.cache_session() as session:
        for _ in range(3):
            torch.testing.assert_close(fast(row()), model(row()))
    assert session.decisions == []


def test_memory_goes_with_the_session_and_with_the_model() -> None:
    model = skips()
    fast = compiled(model)
    with graphopt.cache_session() as session:
        fast(*images())
        [one] = session._sessions
        [state] = one._states.values()
        slot = weakref.ref(next(iter(state.tensors.values())))
        del one, state
    assert slot() is not None
    del session
    gc.collect()
    assert slot() is None
    with graphopt.cache_session() as session:
        fast(*images())
        weights = [weakref.ref(tensor) for tensor in model.parameters()]
        storages = [tensor.untyped_storage()._weak_ref() for tensor in model.parameters()]
        del model, fast
        gc.collect()
        assert [reference() for reference in weights] == [None] * len(weights)
        assert all(torch.UntypedStorage._new_with_weak_ptr(storage) is None for storage in storages)
        assert session.cache_bytes == 0


@pytest.mark.slow
def test_inductor() -> None:
    model = skips()
    fast = compiled(model, inner="inductor")
    steps = [images(step) for step in range(4)]
    with graphopt.cache_session():
        found = [fast(*step) for step in steps]
    for one, other in zip(found, played(model, DEEP, steps), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
