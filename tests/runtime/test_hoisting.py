"""Hoisted values: computed once, and again as soon as what they depend on is another."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from caching.tiny import stack_program, tokens
from torch import Tensor, nn

import graphopt
from graphopt.errors import GraphoptError
from graphopt.pass_manager.result import Result
from graphopt.runtime.session import CacheSession

TIMESTEPS = [900.0, 860.0, 820.0, 780.0]


@cache
def result_of(spec: str) -> Result:
    return graphopt.Pipeline(spec).run(stack_program())


class Counted:
    """A session, and how often each of its programs ran."""

    def __init__(self, spec: str = "hoist-invariants") -> None:
        self.session = CacheSession(result_of(spec))
        self.program = self.session._programs["full"]
        self.calls = dict.fromkeys(self.session._calls, 0)
        for name, call in self.session._calls.items():
            self.session._calls[name] = self._counting(name, call)

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return call(*args, **kwargs)

        return counted

    def check(self, *inputs: Tensor) -> None:
        """Run a step and compare it with the whole program, bit for bit."""
        assert torch.equal(self.session(*inputs), result_of("hoist-invariants").program(*inputs))


def inputs_of(step: int, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    sample, timestep, _ = tokens(step)
    return sample, timestep, text


def test_outputs_are_bit_equal_and_the_text_is_looked_at_once() -> None:
    counted, text = Counted(), tokens()[2]
    for step in range(4):
        counted.check(*inputs_of(step, text))
    assert counted.calls == {"hoisted-0": 1, "hoisted-1": 4, "full": 4}


def test_timesteps_that_are_told_are_computed_at_once() -> None:
    counted, text = Counted(), tokens()[2]
    counted.session.reset(timesteps=TIMESTEPS)
    for step in range(4):
        counted.check(*inputs_of(step, text))
        assert counted.calls["hoisted-1"] == 4
    counted.check(*inputs_of(4, text))  # beyond those that were told
    assert counted.calls["hoisted-1"] == 5


def test_a_timestep_is_tabulated_once() -> None:
    counted, text = Counted(), tokens()[2]
    counted.session.reset(timesteps=[900.0, 900.0, 820.0])
    for step in (0, 0, 2):
        counted.check(*inputs_of(step, text))
    assert counted.calls["hoisted-1"] == 2


@pytest.mark.parametrize("told", [[900.0, 800.0, 700.0], [900.0, float("nan"), 820.0]])
def test_timesteps_that_were_told_wrongly_are_noticed(told: list[float]) -> None:
    counted, text = Counted(), tokens()[2]
    counted.session.reset(timesteps=told)
    for step in range(3):
        counted.check(*inputs_of(step, text))


def test_rows_of_different_timesteps_are_noticed() -> None:
    counted = Counted()
    counted.session.reset(timesteps=TIMESTEPS)
    sample, _, text = tokens()
    counted.check(sample, torch.tensor([900.0, 860.0]), text)
    counted.check(sample, torch.tensor([860.0, 860.0]), text)


def test_a_text_that_is_written_to_or_replaced_is_noticed() -> None:
    counted, text = Counted(), tokens()[2]
    counted.check(*inputs_of(0, text))
    text.mul_(2)
    counted.check(*inputs_of(1, text))
    text[0, 0] = 3
    counted.check(*inputs_of(2, text))
    counted.check(*inputs_of(3, text.clone()))
    assert counted.calls["hoisted-0"] == 4
    counted.check(*inputs_of(4, -text))
    assert counted.calls["hoisted-0"] == 5


def test_inference_tensors_do_not_count_their_versions_and_are_never_trusted() -> None:
    counted = Counted()
    counted.session.reset(timesteps=TIMESTEPS)
    with torch.inference_mode():
        text = tokens()[2].clone()
        for step in range(3):
            counted.check(*inputs_of(step, text))
            text.add_(1)
    assert counted.calls["hoisted-0"] == 3


def test_reset_forgets_and_branches_do_not_share() -> None:
    counted, text = Counted(), tokens()[2]
    counted.check(*inputs_of(0, text))
    with counted.session.branch("uncond"):
        counted.check(*inputs_of(0, -text))
    counted.check(*inputs_of(1, text))
    assert counted.calls["hoisted-0"] == 2
    counted.session.reset()
    assert counted.session.hoisted_bytes == 0
    counted.check(*inputs_of(0, text))
    assert counted.calls["hoisted-0"] == 3


def test_other_batches_are_noticed() -> None:
    counted = Counted()
    counted.check(*tokens(0))
    counted.check(*tokens(1, batch=4))


def test_bytes_of_hoisted_values_and_tables() -> None:
    session = CacheSession(result_of("hoist-invariants"))
    inputs = tokens()
    session(*inputs)
    text = 3 * 2 * 16 * 4
    assert (session.cache_bytes, session.hoisted_bytes) == (0, text)
    session.reset(timesteps=TIMESTEPS)
    session(*inputs)
    assert session.hoisted_bytes == text + len(TIMESTEPS) * text


@pytest.mark.parametrize(
    "spec",
    [
        "insert-cache{cuts=[add_1:add_3],schedule=uniform:2}",
        "insert-cache{cuts=[linear_9,linear_13],table=[00,10,11,01]}",
        "insert-cache{cuts=[linear_13],schedule=uniform:3,predictor=linear}",
        "first-block{threshold=0.1}",
        "dbcache{front=1,back=1,warm_up=1,threshold=1000.0}",
    ],
)
@pytest.mark.parametrize("told", [False, True])
def test_hoisting_behind_a_cache_changes_no_bit(spec: str, told: bool) -> None:
    alone, both = CacheSession(result_of(spec)), CacheSession(result_of(f"{spec},hoist-invariants"))
    if told:
        both.reset(timesteps=TIMESTEPS)
    text = tokens()[2]
    for step in range(4):
        assert torch.equal(alone(*inputs_of(step, text)), both(*inputs_of(step, text))), step
    assert [one.program for one in alone.decisions] == [one.program for one in both.decisions]
    assert alone.cache_bytes == both.cache_bytes


def test_callers_may_write_to_what_a_step_returns() -> None:
    counted, text = Counted(), tokens()[2]
    for step in range(3):
        inputs = inputs_of(step, text)
        output = counted.session(*inputs)
        assert torch.equal(output, result_of("hoist-invariants").program(*inputs))
        output.fill_(9)


class Nested(nn.Module):
    """What depends on the timestep alone, and what depends on it and the text; a draw and a counter beside."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.t, self.c, self.d = (nn.Linear(8, 8), nn.Linear(1, 8), nn.Linear(8, 8), nn.Linear(8, 8))

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        embedded = torch.tanh(self.t(timestep.float().reshape(-1, 1) / 1000))
        both = torch.tanh(self.d(embedded) + self.c(text))
        return self.a(x) * embedded + both


def at(value: float, rows: int = 2) -> Tensor:
    return torch.full((rows,), value)


def nested() -> tuple[nn.Module, CacheSession]:
    torch.manual_seed(0)
    model = Nested().eval().requires_grad_(False)
    program = graphopt.capture(model, (torch.randn(2, 8),), {"timestep": at(900), "text": torch.randn(2, 8)})
    return model, CacheSession(graphopt.Pipeline("hoist-invariants").run(program))


def test_a_table_of_programs_that_read_each_other_is_right_at_every_timestep() -> None:
    model, session = nested()
    session.reset(timesteps=[900, 500, 100])
    x, text = torch.randn(2, 8), torch.randn(2, 8)
    for value in (900, 500, 100):
        wanted = model(x, at(value), text)
        assert torch.equal(session(x, timestep=at(value), text=text), wanted)


def test_keywords_in_any_order_and_by_place_mean_the_same() -> None:
    model, session = nested()
    x = torch.randn(2, 8)
    for seed in range(3):
        text = torch.full((2, 8), float(seed))
        wanted = model(x, at(300), text)
        assert torch.equal(session(text=text, timestep=at(300), x=x), wanted)
        assert torch.equal(session(x, at(300), text), wanted)
        assert torch.equal(session(x, text=text, timestep=at(300)), wanted)


def test_another_batch_is_a_miss_for_hoisted_values_too() -> None:
    model, session = nested()
    session.reset(timesteps=[900, 500, 100])
    for step, rows in enumerate((2, 4, 3)):
        x, text, time = torch.randn(rows, 8), torch.randn(rows, 8), at((900, 500, 100)[step], rows)
        assert torch.allclose(session(x, timestep=time, text=text), model(x, time, text), atol=1e-6)


class Drawing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Linear(8, 8)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        self.count.add_(1)
        return x + self.b(torch.randn_like(text)) * 0.1 + self.b(text) + self.b(text) * self.count * 0.1


def test_draws_and_counters_stay_in_the_loop() -> None:
    torch.manual_seed(0)
    model, x, text = Drawing().eval().requires_grad_(False), torch.randn(2, 8), torch.randn(2, 8)
    program = graphopt.capture(model, (x, text))
    context = graphopt.PassContext(verify=False)
    session = CacheSession(graphopt.Pipeline("hoist-invariants").run(program, context))
    outputs = [session(x, text) for _ in range(3)]
    assert not torch.equal(outputs[0], outputs[1])
    assert float((outputs[2] - outputs[1]).abs().max()) > 0.01


def test_weights_written_in_place_are_seen() -> None:
    model, session = nested()
    x, text, time = torch.randn(2, 8), torch.randn(2, 8), at(300)
    session(x, timestep=time, text=text)
    model.c.weight.mul_(3.0)
    assert torch.equal(session(x, timestep=time, text=text), model(x, time, text))


def test_inputs_are_checked_though_programs_have_more_of_them() -> None:
    _, session = nested()
    with pytest.raises(GraphoptError, match="found no text among the inputs"):
        session(torch.randn(2, 8), timestep=at(300))
    with pytest.raises(GraphoptError, match=r"input text has shape \[2, 9\]"):
        session(torch.randn(2, 8), timestep=at(300), text=torch.randn(2, 9))


class Mapped(nn.Module):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["x"] + batch["text"].tanh().sum(1, keepdim=True)


def test_mappings_may_have_their_keys_in_any_order() -> None:
    x, text = torch.randn(2, 8), torch.randn(2, 5)
    program = graphopt.capture(Mapped(), ({"x": x, "text": text},))
    wanted = program({"x": x, "text": text})
    assert torch.equal(program.module()({"text": text, "x": x}), wanted)
    session = CacheSession(graphopt.Pipeline("hoist-invariants{sample=batch_x}").run(program))
    assert torch.equal(session({"text": text, "x": x}), wanted)
    assert torch.equal(session({"text": 2 * text, "x": x}), program({"x": x, "text": 2 * text}))
