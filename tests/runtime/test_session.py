"""Sessions: what runs at which step, what is held between steps and for whom, and who may write to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from caching.tiny import skips_program, stack, stack_program, tokens
from torch import Tensor

import graphopt
from graphopt.errors import GraphoptError
from graphopt.pass_manager.result import Result
from graphopt.runtime.session import CacheSession, Decision

UNIFORM = "insert-cache{cuts=[add_1:add_3],schedule=uniform:3}"
PROBE = "first-block{threshold=%s}"


@cache
def result_of(spec: str) -> Result:
    program = skips_program() if spec.startswith("deepcache") else stack_program()
    return graphopt.Pipeline(spec).run(program)


def session_of(spec: str = UNIFORM) -> CacheSession:
    return CacheSession(result_of(spec))


def run(session: CacheSession, steps: int, first: int = 0) -> list[Tensor]:
    return [session(*tokens(step)) for step in range(first, first + steps)]


def programs_of(session: CacheSession) -> list[str]:
    return [decision.program for decision in session.decisions]


def whole(step: int, batch: int = 2) -> Tensor:
    return result_of(UNIFORM).program(*tokens(step, batch))


def test_a_result_without_schedule_is_refused() -> None:
    plain = graphopt.Pipeline("prune-channels{ratio=0.25}").run(stack_program())
    with pytest.raises(GraphoptError, match=r"the Result has no schedule.*deepcache\{interval=3\}"):
        CacheSession(plain)


def test_a_schedule_is_played_and_told() -> None:
    session = session_of()
    outputs = run(session, 5)
    for step in (0, 3):
        assert torch.equal(outputs[step], whole(step))
    for step in (1, 2, 4):
        assert not torch.equal(outputs[step], whole(step))
        torch.testing.assert_close(outputs[step], whole(step), rtol=0.2, atol=0.2)
    assert programs_of(session) == ["full", "cached", "cached", "full", "cached"]
    assert session.decisions[0] == Decision(0, "", "full", "first step")
    assert session.decisions[1] == Decision(1, "", "cached", "by schedule")
    assert session.decisions[3].reason == "by schedule"
    assert session.step == 5


def test_a_cached_step_adds_what_the_full_one_kept() -> None:
    session = session_of()
    run(session, 1)
    kept = session._states[""].tensors["cache_0"]
    cached = result_of(UNIFORM).programs["cached"]
    assert torch.equal(session(*tokens(1)), cached(*tokens(1), cache_0=kept)[0])


def test_reset_starts_over() -> None:
    session = session_of()
    first = run(session, 3)
    assert session.cache_bytes == 2 * 5 * 16 * 4
    session.reset()
    assert (session.decisions, session.cache_bytes, session.step) == ([], 0, 0)
    for one, other in zip(first, run(session, 3), strict=True):
        assert torch.equal(one, other)
    assert programs_of(session) == ["full", "cached", "cached"]


def test_branches_do_not_see_each_other() -> None:
    session, alone = session_of(), session_of()
    for step in range(4):
        ours = session(*tokens(step))
        with session.branch("uncond"):
            session(*(-one for one in tokens(step)))
            assert session.step == step + 1
        assert torch.equal(ours, alone(*tokens(step)))
    assert [(one.step, one.branch, one.program) for one in session.decisions[2:6]] == [
        (1, "", "cached"),
        (1, "uncond", "cached"),
        (2, "", "cached"),
        (2, "uncond", "cached"),
    ]
    assert session.cache_bytes == 2 * alone.cache_bytes


def test_a_branch_ends_with_its_block_also_after_an_error() -> None:
    session = session_of()
    with pytest.raises(KeyError), session.branch("uncond"):
        raise KeyError
    session(*tokens())
    assert session.decisions[0].branch == ""


MISMATCHES: dict[str, Callable[[], tuple[Tensor, ...]]] = {
    "batch": lambda: tokens(1, batch=3),
    "dtype": lambda: (tokens(1)[0], tokens(1)[1].double().to(torch.int64), tokens(1)[2]),
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_other_inputs_are_a_miss(kind: str) -> None:
    session = session_of()
    session(*tokens(0))
    inputs = MISMATCHES[kind]()
    assert torch.equal(session(*inputs), result_of(UNIFORM).program(*inputs))
    assert session.decisions[1].reason == "inputs of another shape, dtype or device"
    session(*inputs)
    assert programs_of(session) == ["full", "full", "cached"]


def test_sizes_that_are_fixed_in_the_program_are_refused_and_nothing_is_lost() -> None:
    session = session_of()
    session(*tokens(0))
    sample, timestep, text = tokens(1)
    with pytest.raises(GraphoptError, match="sample"):
        session(sample[:, :4], timestep, text)
    session(*tokens(1))
    assert programs_of(session) == ["full", "cached"]


def test_a_step_that_does_not_follow_starts_anew() -> None:
    session = session_of()
    run(session, 2)
    session.step = 4
    assert session.step == 4
    assert torch.equal(session(*tokens(4)), whole(4))
    assert session.decisions[2] == Decision(4, "", "full", "step 4 does not follow step 1")
    session(*tokens(5))
    session.step = 6
    session(*tokens(6))
    assert programs_of(session)[3:] == ["cached", "full"]
    assert session.decisions[-1].reason == "by schedule"
    session.step = 6
    session(*tokens(6))
    assert session.decisions[-1].reason == "step 6 does not follow step 6"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_step_that_fails_leaves_nothing_behind(error: type[BaseException]) -> None:
    session = session_of()
    run(session, 1)
    with session.branch("uncond"):
        run(session, 1)
    calls = session._calls["cached"]

    def fails(*_: Any, **__: Any) -> None:
        raise error

    session._calls["cached"] = fails
    with pytest.raises(error):
        session(*tokens(1))
    session._calls["cached"] = calls
    assert session.cache_bytes == 2 * 5 * 16 * 4  # of the other branch
    assert torch.equal(session(*tokens(1)), whole(1))
    assert session.decisions[-1] == Decision(0, "", "full", "first step")


def test_the_last_step_is_full_where_their_number_is_known() -> None:
    session = session_of("insert-cache{cuts=[add_1:add_3],schedule=uniform:3,last_full}")
    session.reset(steps=3)
    run(session, 3)
    assert (programs_of(session), session.decisions[2].reason) == (["full", "cached", "full"], "last step")
    session.reset(timesteps=[900.0, 800.0])
    run(session, 2)
    assert programs_of(session) == ["full", "full"]
    session.reset()
    run(session, 3)
    assert programs_of(session) == ["full", "cached", "cached"]
    plain = session_of()
    plain.reset(steps=3)
    run(plain, 3)
    assert programs_of(plain) == ["full", "cached", "cached"]


def test_steps_behind_a_list_are_full() -> None:
    session = session_of("insert-cache{cuts=[add_1:add_3],schedule=[0,2],steps=4}")
    run(session, 6)
    assert programs_of(session) == ["full", "cached", "full", "cached", "full", "full"]
    assert session.decisions[4].reason == "the schedule ends after 4 steps"


def test_a_threshold_decides_by_the_distance_from_the_last_full_step() -> None:
    session = session_of(PROBE % 0.1)
    run(session, 8)
    probe = result_of(PROBE % 0.1).programs["probe"]
    reference = probe(*tokens(0), probe_0=torch.ones(2, 5, 16))[1]["probe_0"]
    for decision in session.decisions[1:]:
        now = probe(*tokens(decision.step), probe_0=torch.ones(2, 5, 16))[1]["probe_0"]
        distance = float((reference - now).abs().mean() / reference.abs().mean())
        assert decision.distance == pytest.approx(distance, rel=1e-6)
        assert decision.program == ("tail-cached" if distance <= 0.1 else "tail-full")
        reference = now if decision.program == "tail-full" else reference
    assert {"full", "tail-cached", "tail-full"} == set(programs_of(session))


@pytest.mark.parametrize(
    ("option", "programs"),
    [
        ("warm_up=3", ["full", "full", "full", "tail-cached", "tail-cached", "tail-cached"]),
        ("max_consecutive=1", ["full", "tail-cached", "full", "tail-cached", "full", "tail-cached"]),
        ("max_cached=2", ["full", "tail-cached", "tail-cached", "full", "full", "full"]),
    ],
)
def test_limits_of_a_threshold(option: str, programs: list[str]) -> None:
    session = session_of(f"first-block{{threshold=1000.0,{option}}}")
    run(session, 6)
    assert programs_of(session) == programs


def test_a_distance_that_is_no_number_is_far() -> None:
    session = session_of(PROBE % 1000.0)
    run(session, 1)
    sample, timestep, text = tokens(1)
    session(sample * torch.nan, timestep, text)
    assert programs_of(session) == ["full", "tail-full"]


def test_bytes_are_those_of_the_tensors() -> None:
    session = session_of("insert-cache{cuts=[add_1:add_3,linear_13],schedule=uniform:9,predictor=taylor:2}")
    sizes = []
    for step in range(2):
        session.step = step
        session(*tokens(step))
        sizes.append(session.cache_bytes)
    assert sizes == [2 * 640, 2 * 640]
    held = session._states[""].tensors.values()
    assert session.cache_bytes == sum(tensor.numel() * tensor.element_size() for tensor in held)


LINEAR = "insert-cache{cuts=[add_1:add_3],schedule=uniform:3,predictor=linear}"


@pytest.mark.parametrize("spec", [UNIFORM, LINEAR, "deepcache{interval=2}"])
def test_static_schedules_never_wait_for_the_device(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(spec)
    inputs = result_of(spec).program.args

    def waits(*_: Any) -> None:
        raise AssertionError("asked a tensor for its number")

    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "cpu", "numpy", "__index__"):
        monkeypatch.setattr(Tensor, name, waits)
    for _ in range(7):
        session(*inputs)
    assert "cached" in programs_of(session)


@pytest.mark.parametrize(
    "spec", [UNIFORM, PROBE % 1000.0, "insert-cache{cuts=[linear_14,add_3],schedule=uniform:4,allow_dead=[*]}"]
)
def test_callers_may_write_to_their_inputs_and_outputs(spec: str) -> None:
    clean = run(session_of(spec), 4)
    session = session_of(spec)
    for step in range(4):
        inputs = tokens(step)
        output = session(*inputs)
        assert torch.equal(output, clean[step]), step
        for tensor in (output, *inputs):
            tensor.fill_(5)


def trainable(session: CacheSession) -> CacheSession:
    for program in session._programs.values():
        for tensor in program.parameters.values():
            tensor.requires_grad_(tensor.is_floating_point())
    return session


def test_with_gradients_no_graph_is_kept() -> None:
    result = graphopt.Pipeline(UNIFORM).run(stack_program())
    session = trainable(CacheSession(result))
    for step in range(3):
        output = session(*tokens(step))
        assert output.requires_grad
        assert not any(tensor.requires_grad for tensor in session._states[""].tensors.values())
    output.sum().backward()
    cached = result.programs["cached"].parameters
    assert cached["head.weight"].grad is not None
    assert "blocks.1.first.weight" not in cached
    assert result.program.parameters["blocks.1.first.weight"].grad is None


def test_what_was_filled_under_inference_mode_serves_other_steps() -> None:
    result = graphopt.Pipeline("insert-cache{cuts=[linear_8],schedule=uniform:9}").run(stack_program())
    session = trainable(CacheSession(result))
    with torch.inference_mode():
        first = session(*tokens(0))
    assert first.is_inference()
    second = session(*tokens(1))
    second.sum().backward()
    with torch.inference_mode():
        third = session(*tokens(1))
    assert torch.equal(second.detach(), third)
    assert programs_of(session) == ["full", "cached", "cached"]


@pytest.mark.parametrize("spec", [UNIFORM, PROBE % 1000.0, "hoist-invariants"])
def test_a_trained_module_trains_every_program(spec: str, tmp_path: Any) -> None:
    model = stack()
    result = graphopt.Pipeline(spec).run(graphopt.capture(model, tokens()))
    session = CacheSession(result)
    untrained = run(session, 2)
    module = result.module()
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.mul_(1.25)
    session.reset()
    trained = run(session, 2)
    assert torch.equal(trained[0], module(*tokens(0)))
    assert not torch.equal(trained[1], untrained[1])
    for program in result.programs.values():
        for name, tensor in program.parameters.items():
            assert tensor.data_ptr() == result.program.parameters[name].data_ptr(), name
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in stack().state_dict().items())
    result.save(tmp_path / "saved")
    again = CacheSession(graphopt.load(tmp_path / "saved", stack()))
    for one, other in zip(trained, run(again, 2), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "passes",
    [
        "prune-channels{ratio=0.5},first-block{threshold=1000.0}",
        "prune-layers{layers=[block.1]},mag-cache{ratios=[1,1,1,1,1,1]}",
    ],
)
def test_caches_of_pruned_models(passes: str, tmp_path: Any) -> None:
    result = graphopt.Pipeline(passes).run(graphopt.capture(stack(), tokens()))
    session = CacheSession(result)
    outputs = run(session, 4)
    assert torch.equal(outputs[0], result.program(*tokens(0)))
    assert sum(one.program in ("cached", "tail-cached") for one in session.decisions) >= 2
    assert len(result.programs["full"].parameters) > 0
    assert sum(one.numel() for one in result.program.parameters.values()) < 4452
    result.save(tmp_path / "saved")
    loaded = graphopt.load(tmp_path / "saved", stack())
    assert loaded.schedule == result.schedule
    for one, other in zip(outputs, run(CacheSession(loaded), 4), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("options", [{"mode": "reduce-overhead"}, {"options": {"triton.cudagraphs": True}}, {}])
def test_programs_that_write_to_the_same_memory_are_copied_from(options: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    session = CacheSession(graphopt.Pipeline("first-block{threshold=0.5}").run(stack_program()))
    session.compile(**options)
    assert session._copies == bool(options)
