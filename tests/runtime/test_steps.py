"""Steps, branches and generations are told from the loop's own timesteps."""

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from graphopt.runtime.steps import Moment, StepFinder


def scheduled(steps: int = 5, **more: Any) -> Any:
    return SimpleNamespace(timesteps=torch.arange(steps).flip(0) * 100, **more)


def steps(moments: list[Moment]) -> list[int]:
    return [moment.step for moment in moments]


@pytest.mark.parametrize("form", ["loop variable", "expanded", "with an axis"])
def test_a_view_of_the_schedule_tells_its_place(form: str) -> None:
    scheduler = scheduled()
    finder = StepFinder(lambda: scheduler)
    forms = {"loop variable": lambda t: t, "expanded": lambda t: t.expand(4), "with an axis": lambda t: t[None]}
    moments = [finder.locate(forms[form](t)) for t in scheduler.timesteps]
    assert moments == [Moment(step, "", step == 0) for step in range(5)]


def test_new_timesteps_start_a_generation() -> None:
    scheduler = scheduled()
    finder = StepFinder(lambda: scheduler)
    for t in scheduler.timesteps[:2]:
        finder.locate(t)
    scheduler.timesteps = scheduler.timesteps.clone()
    assert [finder.locate(t) for t in scheduler.timesteps[:2]] == [Moment(0, "", True), Moment(1, "", False)]


def test_the_same_timesteps_again_start_a_generation() -> None:
    scheduler = scheduled()
    finder = StepFinder(lambda: scheduler)
    moments = [finder.locate(t) for _ in range(2) for t in scheduler.timesteps]
    assert steps(moments) == [0, 1, 2, 3, 4] * 2
    assert [moment.starts for moment in moments] == [True, False, False, False, False] * 2


def test_a_loop_that_starts_midway_starts_at_step_zero() -> None:
    scheduler = scheduled(8)
    finder = StepFinder(lambda: scheduler)
    assert steps([finder.locate(t) for t in scheduler.timesteps[3:]]) == [0, 1, 2, 3, 4]
    left = finder.timesteps()
    assert left is not None
    assert left.tolist() == scheduler.timesteps[3:].tolist()


def test_a_step_left_out_leaves_a_gap() -> None:
    scheduler = scheduled()
    finder = StepFinder(lambda: scheduler)
    assert steps([finder.locate(scheduler.timesteps[place]) for place in (0, 1, 3)]) == [0, 1, 3]


def test_a_second_call_at_a_timestep_is_another_branch() -> None:
    scheduler = scheduled(3)
    finder = StepFinder(lambda: scheduler)
    moments = [finder.locate(t) for t in scheduler.timesteps for _ in range(3)]
    assert steps(moments) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [moment.branch for moment in moments] == ["", "1", "2"] * 3


def test_named_branches_keep_their_names() -> None:
    scheduler = scheduled(2)
    finder = StepFinder(lambda: scheduler)
    moments = [finder.locate(t, branch=name) for t in scheduler.timesteps for name in ("cond", "uncond")]
    expected = [(0, "cond"), (0, "uncond"), (1, "cond"), (1, "uncond")]
    assert [(moment.step, moment.branch) for moment in moments] == expected


@pytest.mark.parametrize("begin", [0, 4])
def test_the_schedulers_own_count_tells_where_timesteps_were_converted(begin: int) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(8)
    scheduler.set_begin_index(begin)
    finder = StepFinder(lambda: scheduler)
    moments, latents = [], torch.zeros(1, 4)
    for t in scheduler.timesteps[begin:]:
        moments += [finder.locate(t.expand(2) / 1000) for _ in range(2)]
        latents = scheduler.step(latents, t, latents).prev_sample
    assert steps(moments) == [step for step in range(8 - begin) for _ in range(2)]
    assert [moment.branch for moment in moments] == ["", "1"] * (8 - begin)
    left = finder.timesteps()
    assert left is not None
    assert len(left) == 8 - begin


def test_repeated_timesteps_of_second_order_schedulers_are_steps_of_their_own() -> None:
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(4)
    finder = StepFinder(lambda: scheduler)
    assert len(set(scheduler.timesteps.tolist())) < len(scheduler.timesteps)
    assert steps([finder.locate(t) for t in scheduler.timesteps]) == list(range(len(scheduler.timesteps)))


def test_calls_of_a_named_branch_are_counted() -> None:
    scheduler = scheduled(3)
    finder = StepFinder(lambda: scheduler)
    for _ in range(2):
        names = [name for _ in range(3) for name in ("cond", "uncond")]
        moments = [finder.locate(torch.empty(2, device="meta"), branch=name) for name in names]
        assert steps(moments) == [0, 0, 1, 1, 2, 2]
        assert [moment.starts for moment in moments] == [True, *[False] * 5]
        scheduler.timesteps = scheduler.timesteps.clone()


def test_values_tell_where_nothing_else_does() -> None:
    scheduler = scheduled(4)
    finder = StepFinder(lambda: scheduler)
    moments = [finder.locate(torch.full((2,), float(t))) for t in scheduler.timesteps[1:] for _ in range(2)]
    assert steps(moments) == [0, 0, 1, 1, 2, 2]
    left = finder.timesteps()
    assert left is not None
    assert left.tolist() == [200, 100, 0]


@pytest.mark.parametrize("form", [float, int, lambda t: t, lambda t: t.clone()], ids=["float", "int", "view", "copy"])
def test_a_loop_without_a_scheduler_starts_over_where_timesteps_turn(form: Any) -> None:
    finder = StepFinder()
    timesteps = scheduled(4).timesteps
    moments = [finder.locate(form(t)) for _ in range(3) for t in timesteps]
    assert steps(moments) == [0, 1, 2, 3] * 3
    assert [moment.starts for moment in moments] == [True, False, False, False] * 3


def test_a_loop_without_a_scheduler_starts_over_with_another_tensor() -> None:
    finder = StepFinder()
    assert steps([finder.locate(t) for t in scheduled(4).timesteps[:3]]) == [0, 1, 2]
    assert finder.locate(scheduled(4).timesteps[3]) == Moment(0, "", True)


def test_forgetting_starts_a_generation() -> None:
    finder = StepFinder()
    timesteps = scheduled(4).timesteps
    finder.locate(timesteps[0])
    finder.forget()
    assert finder.locate(timesteps[1]) == Moment(0, "", True)


def test_the_loop_may_say_the_step_itself() -> None:
    scheduler = scheduled()
    finder = StepFinder(lambda: scheduler)
    moments = [finder.locate(None, branch="cond", index=index) for index in (2, 3, 5)]
    assert steps(moments) == [0, 1, 3]


def test_nothing_waits_for_the_device() -> None:
    """A tensor on the meta device has no value to wait for: reading one would raise."""
    scheduler = SimpleNamespace(timesteps=torch.empty(4, device="meta"), step_index=None)
    finder = StepFinder(lambda: scheduler)
    assert steps([finder.locate(t.expand(2)) for t in scheduler.timesteps]) == [0, 1, 2, 3]
    found = []
    scheduler.timesteps = torch.empty(4, device="meta")
    for index in range(1, 5):
        found.append(finder.locate(torch.empty(2, device="meta")).step)
        scheduler.step_index = index
    assert found == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="meta"):
        StepFinder().locate(torch.empty(2, device="meta"))
