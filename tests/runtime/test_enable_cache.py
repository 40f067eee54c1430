"""Caches in and out of pipelines, on a denoiser of a few operators and a loop of a few lines."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphopt import capture
from graphopt.errors import CaptureError, GraphoptError, SpecError
from graphopt.pass_manager import Pipeline, Result
from graphopt.runtime import preparation
from graphopt.runtime.pipelines import disable_cache, enable_cache
from graphopt.runtime.stand_in import CachedDenoiser

EVERY_THIRD = "insert-cache{cuts=[tanh],schedule=uniform:3}"
INTERVAL = 3


class Denoiser(nn.Module):
    """A deep part worth keeping and a shallow one; control enters the deep part."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Linear(4, 4)
        self.shallow = nn.Linear(4, 4)
        self.config = SimpleNamespace(sample_size=8)

    def hidden(self, sample: Tensor, control: Tensor | None = None) -> Tensor:
        return torch.tanh(self.deep(sample if control is None else sample + control))

    def head(self, sample: Tensor, timestep: Tensor, hidden: Tensor) -> Tensor:
        return self.shallow(sample) * (1 + timestep.reshape(-1, 1, 1) / 1000) + hidden

    def forward(self, sample: Tensor, timestep: Tensor, control: Tensor | None = None) -> tuple[Tensor]:
        return (self.head(sample, timestep, self.hidden(sample, control)),)


class Loop:
    """What a pipeline amounts to."""

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet
        self.scheduler = SimpleNamespace(timesteps=torch.arange(0))

    @torch.no_grad()
    def __call__(
        self,
        sample: Tensor,
        steps: int = 7,
        *,
        branches: int = 1,
        on_step: Callable[[int], None] = lambda step: None,
        **inputs: Any,
    ) -> Tensor:
        self.scheduler.timesteps = torch.linspace(900, 0, steps)
        for step, t in enumerate(self.scheduler.timesteps):
            outputs = [self.unet(sample + branch, t, **inputs)[0] for branch in range(branches)]
            sample = sample + 0.1 * sum(outputs, start=torch.zeros(()))
            on_step(step)
        return sample


@torch.no_grad()
def by_hand(model: Denoiser, sample: Tensor, steps: int = 7, branches: int = 1) -> Tensor:
    """The same loop with the cache written out."""
    kept: dict[int, Tensor] = {}
    for step, t in enumerate(torch.linspace(900, 0, steps)):
        outputs = []
        for branch in range(branches):
            if step % INTERVAL == 0:
                kept[branch] = model.hidden(sample + branch)
            outputs.append(model.head(sample + branch, t, kept[branch]))
        sample = sample + 0.1 * sum(outputs, start=torch.zeros(()))
    return sample


@pytest.fixture
def model() -> Denoiser:
    return Denoiser()


@pytest.fixture
def pipe(model: Denoiser) -> Loop:
    return enable_cache(Loop(model), EVERY_THIRD)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    seen: list[tuple[Any, ...]] = []

    def counted(*inputs: Any) -> Any:
        seen.append(inputs)
        return capture(*inputs)

    monkeypatch.setattr(preparation, "capture", counted)
    return seen


def noise(batch: int = 2, tokens: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, tokens, 4, generator=torch.Generator().manual_seed(seed))


def result_of(model: nn.Module) -> Result:
    return Pipeline(EVERY_THIRD).run(capture(model, (noise(), torch.tensor(900.0))))


def programs(pipe: Loop) -> list[str]:
    return [decision.program for decision in pipe.unet.decisions]


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_a_generation_runs_by_schedule(pipe: Loop, model: Denoiser, branches: int) -> None:
    got = pipe(noise(), branches=branches)
    torch.testing.assert_close(got, by_hand(model, noise(), branches=branches))
    assert (got - Loop(model)(noise(), branches=branches)).abs().max() > 1e-3
    schedule = ["full", "cached", "cached", "full", "cached", "cached", "full"]
    assert programs(pipe) == [program for program in schedule for _ in range(branches)]
    assert {decision.branch for decision in pipe.unet.decisions} == {"", "1", "2"} - {
        str(n) for n in range(branches, 9)
    }


def test_images_one_after_another_do_not_mix(pipe: Loop, model: Denoiser, captures: list[Any]) -> None:
    for seed, (batch, tokens, steps) in enumerate([(2, 3, 7), (1, 3, 5), (5, 3, 4), (2, 6, 7), (2, 3, 2)]):
        got = pipe(noise(batch, tokens, seed), steps)
        torch.testing.assert_close(got, by_hand(model, noise(batch, tokens, seed), steps))
        assert len(pipe.unet.decisions) == steps
        assert pipe.unet.decisions[0].program == "full"
    assert len(captures) == 2, "another batch is no other program, another number of tokens is"


def test_only_the_last_sizes_are_kept(pipe: Loop, captures: list[Any]) -> None:
    for tokens in (1, 2, 3, 4, 5, 5, 2, 1):
        pipe(noise(tokens=tokens), 2)
    assert len(captures) == 6
    assert len(pipe.unet.sessions) == preparation.KEPT


def test_a_generation_left_midway_leaves_nothing_behind(pipe: Loop, model: Denoiser) -> None:
    def stop(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe(noise(seed=1), on_step=stop)
    torch.testing.assert_close(pipe(noise()), by_hand(model, noise()))
    with pytest.raises(TypeError, match="wrong"):
        pipe.unet(noise(), torch.tensor(3.0), wrong=1)
    torch.testing.assert_close(pipe(noise()), by_hand(model, noise()))


def test_disabling_leaves_no_trace(model: Denoiser) -> None:
    pipe = Loop(model)
    modules = {name: (module, dict(vars(module))) for name, module in model.named_modules()}
    before = dict(vars(pipe))
    enable_cache(pipe, EVERY_THIRD)
    assert type(pipe.unet) is CachedDenoiser
    pipe(noise())
    assert disable_cache(pipe) is pipe
    assert pipe.unet is model
    assert vars(pipe).keys() == before.keys()
    for name, (module, attributes) in modules.items():
        assert model.get_submodule(name) is module
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[key] is value for key, value in attributes.items())
    assert "forward" in vars(Denoiser)
    assert Denoiser.forward is vars(Denoiser)["forward"]
    assert disable_cache(pipe).unet is model


def test_enabling_again_replaces(pipe: Loop, model: Denoiser) -> None:
    pipe(noise())
    first = pipe.unet
    enable_cache(pipe, "insert-cache{cuts=[tanh],schedule=uniform:2}")
    assert pipe.unet is not first
    assert pipe.unet.uncached is model
    pipe(noise(), 5)
    assert programs(pipe) == ["full", "cached", "full", "cached", "full"]
    assert disable_cache(pipe).unet is model


def test_a_model_in_a_loop_of_ones_own(model: Denoiser) -> None:
    cached = enable_cache(model, EVERY_THIRD)
    for seed in range(2):
        torch.testing.assert_close(Loop(cached)(noise(seed=seed)), by_hand(model, noise(seed=seed)))
    assert disable_cache(cached) is model
    assert disable_cache(model) is model


def test_a_loop_without_any_sign_resets_by_hand(model: Denoiser) -> None:
    cached = enable_cache(model, EVERY_THIRD)
    for _ in range(2):
        for _ in range(2):
            cached(noise(), torch.tensor(5.0))
        assert [decision.branch for decision in cached.decisions] == ["", "1"]
        cached.reset()


def test_branches_named_by_the_loop(model: Denoiser) -> None:
    cached = enable_cache(model, EVERY_THIRD)
    for t in (900.0, 800.0):
        for name in ("cond", "uncond"):
            with cached.cache_context(name):
                cached(noise(), torch.tensor(t))
    seen = [(decision.step, decision.branch, decision.program) for decision in cached.decisions]
    assert seen == [(0, "cond", "full"), (0, "uncond", "full"), (1, "cond", "cached"), (1, "uncond", "cached")]


@pytest.mark.parametrize("number", [int, float])
def test_a_timestep_that_is_a_number_is_no_constant(model: Denoiser, captures: list[Any], number: Any) -> None:
    cached = enable_cache(model, EVERY_THIRD)
    for t in (900, 600, 300):
        got = cached(noise(), number(t))
    assert len(captures) == 1
    expected = model.head(noise(), torch.tensor(300.0), model.hidden(noise()))
    torch.testing.assert_close(got[0], expected)


def test_the_stand_in_is_the_model_in_all_else(pipe: Loop, model: Denoiser) -> None:
    stand_in = pipe.unet
    assert isinstance(stand_in, Denoiser)
    assert isinstance(stand_in, nn.Module)
    assert stand_in.config is model.config
    assert stand_in.deep is model.deep
    assert list(stand_in.state_dict()) == list(model.state_dict())
    assert [id(p) for p in stand_in.parameters()] == [id(p) for p in model.parameters()]
    assert not stand_in.eval().training
    assert not model.training
    stand_in.extra = 5
    assert model.extra == 5
    del stand_in.extra
    assert not hasattr(model, "extra")
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        stand_in.nothing_of_the_kind  # noqa: B018


def test_changed_weights_are_seen(pipe: Loop, model: Denoiser, captures: list[Any]) -> None:
    pipe(noise())
    with torch.no_grad():
        model.deep.weight.mul_(2)
    torch.testing.assert_close(pipe(noise()), by_hand(model, noise()))
    assert len(captures) == 1
    pipe.unet.deep = nn.Linear(4, 4)
    torch.testing.assert_close(pipe(noise()), by_hand(model, noise()))
    assert len(captures) == 2
    assert pipe.unet.to(torch.float64) is pipe.unet
    torch.testing.assert_close(pipe(noise().double()), by_hand(model, noise().double()))


@pytest.mark.parametrize("scaled", [False, True])
def test_what_depends_on_the_timestep_alone_is_computed_for_all_of_them(model: Denoiser, scaled: bool) -> None:
    class Timed(Denoiser):
        def head(self, sample: Tensor, timestep: Tensor, hidden: Tensor) -> Tensor:
            return self.shallow(sample) * torch.sin(timestep.reshape(-1, 1, 1)) + hidden

    class Scaling(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, sample: Tensor, t: Tensor) -> Any:
            return self.model(sample, t / 1000)

    model = Timed()
    pipe = enable_cache(Loop(model), "hoist-invariants")
    stand_in = pipe.unet
    pipe.unet = Scaling(stand_in) if scaled else stand_in
    plain = Loop(Scaling(model) if scaled else model)
    for steps in (7, 3):
        assert torch.equal(pipe(noise(), steps), plain(noise(), steps))
    told = stand_in.sessions[-1]._timesteps
    assert told == (None if scaled else pipe.scheduler.timesteps.tolist())


def test_inference_mode(pipe: Loop, model: Denoiser) -> None:
    with torch.inference_mode():
        got = pipe(noise())
    torch.testing.assert_close(got.clone(), by_hand(model, noise()))


@pytest.mark.gpu
def test_a_static_schedule_never_waits_for_the_device(model: Denoiser) -> None:
    model.cuda()
    pipe = enable_cache(Loop(model), EVERY_THIRD)
    sample = noise().cuda()
    with torch.device("cuda"):
        first = pipe(sample)
        torch.cuda.set_sync_debug_mode("error")
        try:
            second = pipe(sample)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, second)


def test_a_result_stands_for_its_passes(model: Denoiser, captures: list[Any]) -> None:
    pipe = enable_cache(Loop(model), result_of(model))
    torch.testing.assert_close(pipe(noise()), by_hand(model, noise()))
    assert not captures


def test_a_result_has_one_session_whatever_it_refuses(model: Denoiser) -> None:
    pipe = enable_cache(Loop(model), result_of(model))
    with pytest.raises(GraphoptError, match="captured for") as caught:
        pipe(noise(tokens=5))
    assert any("prepared" in note for note in caught.value.__notes__)
    assert pipe.unet.sessions == ()
    pipe(noise())
    (session,) = pipe.unet.sessions
    for tokens in range(5, 10):
        with pytest.raises(GraphoptError, match="captured for"):
            pipe(noise(tokens=tokens))
    pipe.unet(sample=noise(), timestep=torch.tensor(3.0))
    torch.testing.assert_close(pipe(noise()), by_hand(model, noise()))
    assert pipe.unet.sessions == (session,)


def test_a_result_cannot_follow_tensors_that_were_cast(model: Denoiser) -> None:
    pipe = enable_cache(Loop(model), result_of(model))
    pipe(noise())
    pipe.unet.to(torch.float64)
    for call in (pipe, lambda sample: pipe.unet(sample, torch.tensor(3.0))):
        with pytest.raises(GraphoptError, match=r"tensors of Denoiser were moved, cast .* run the passes again"):
            call(noise().double())


def test_a_result_is_of_one_model(model: Denoiser) -> None:
    pipe = Loop(model)
    pipe.transformer = Denoiser()
    with pytest.raises(GraphoptError, match="has the denoisers unet, transformer, and a result is of one model"):
        enable_cache(pipe, result_of(model))
    assert pipe.unet is model


class Other(Denoiser):
    """Another class of the same tensors."""


def test_a_result_of_another_model_is_refused(model: Denoiser) -> None:
    result = result_of(model)
    longer, wider, shorter = Denoiser(), Denoiser(), Denoiser()
    longer.more = nn.Linear(4, 4)
    wider.shallow = nn.Linear(8, 4)
    shorter.shallow = nn.Identity()
    del shorter.deep
    for other, difference in [
        (Other(), "another model than this Other: that one is a Denoiser"),
        (longer, "that one has no more.weight"),
        (wider, r"shallow.weight is \[4, 4\] there and \[4, 8\] here"),
        (shorter, "this one has no deep.weight"),
    ]:
        with pytest.raises(GraphoptError, match=difference):
            enable_cache(other, result)
    twin = Denoiser()
    assert disable_cache(enable_cache(twin, result)) is twin


def test_constants_of_the_code_are_no_difference() -> None:
    class Shifted(Denoiser):
        def hidden(self, sample: Tensor, control: Tensor | None = None) -> Tensor:
            return super().hidden(sample + torch.tensor([1.0, 2.0, 3.0, 4.0]), control)

    model = Shifted()
    result = result_of(model)
    assert result.plan is not None
    assert len(result.plan.source.tensors) > len(model.state_dict())
    torch.testing.assert_close(enable_cache(Loop(model), result)(noise()), by_hand(model, noise()))


def test_a_control_that_would_be_lost_is_named(pipe: Loop) -> None:
    with pytest.raises(GraphoptError, match="control") as caught:
        pipe(noise(), control=noise(seed=3))
    assert any("Denoiser" in note for note in caught.value.__notes__)


def test_a_model_that_someone_else_has_hooked_is_refused(model: Denoiser) -> None:
    pipe = Loop(model)
    model.deep.forward = model.deep.forward
    with pytest.raises(CaptureError, match="forward of deep was replaced"):
        enable_cache(pipe, EVERY_THIRD)
    assert pipe.unet is model


def test_mistakes_show_at_once(model: Denoiser) -> None:
    with pytest.raises(SpecError):
        enable_cache(Loop(model), "no-such-pass")
    with pytest.raises(GraphoptError, match="SimpleNamespace has no model under unet, transformer"):
        enable_cache(SimpleNamespace(), EVERY_THIRD)
    inputs = (noise(), torch.tensor(900.0))
    uncached = replace(Pipeline(EVERY_THIRD).run(capture(model, inputs)), schedule=None)
    with pytest.raises(GraphoptError, match="no schedule"):
        enable_cache(model, uncached)(*inputs)
