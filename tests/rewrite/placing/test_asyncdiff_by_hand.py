"""AsyncDiff by hand beside its formulas on a model of two modules."""

import torch
from rewrite.placing.asyncdiff_by_hand import AsyncDiffByHand
from torch import Tensor, nn

TIMES = [torch.tensor(float(time)) for time in (9, 7, 5, 3, 2, 1)]
SAMPLES = [torch.linspace(-1, 1, 8) * (step + 1) for step in range(len(TIMES))]
WARM_UP = 2


class First(nn.Module):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return torch.sin(x + time)


class Second(nn.Module):
    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        return hidden * time - 1


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = First(), Second()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.second(self.first(x, time), time)


FIRST, SECOND, MODEL = First(), Second(), Chain()
COMPONENTS = [["first"], ["second"]]


def _call(model: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    return model(x, time)


def _predictions(components: list[list[str]], *, stride: int = 1, time_shift: bool = False) -> list[Tensor]:
    by_hand = AsyncDiffByHand(MODEL, components, _call, TIMES, warm_up=WARM_UP, stride=stride, time_shift=time_shift)
    return [by_hand.predict(step, x) for step, x in enumerate(SAMPLES)]


def _all_equal(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def _fresh(step: int) -> Tensor:
    return MODEL(SAMPLES[step], TIMES[step])


def test_the_second_module_sees_this_timestep_and_the_sample_before() -> None:
    late = [SECOND(FIRST(SAMPLES[step - 1], TIMES[step - 1]), TIMES[step]) for step in range(WARM_UP, len(TIMES))]
    assert _all_equal(_predictions(COMPONENTS), [_fresh(0), _fresh(1), *late])


def test_a_shifted_timestep_is_that_of_the_step_before() -> None:
    seen = [TIMES[step] if step < WARM_UP else TIMES[step - 1] for step in range(len(TIMES))]
    late = [SECOND(FIRST(SAMPLES[step - 1], seen[step - 1]), seen[step]) for step in range(WARM_UP, len(TIMES))]
    assert _all_equal(_predictions(COMPONENTS, time_shift=True), [_fresh(0), _fresh(1), *late])


def test_one_component_is_the_model_itself() -> None:
    assert _all_equal(_predictions([["first", "second"]]), [_fresh(step) for step in range(len(TIMES))])


def test_stride_two_predicts_two_steps_at_once() -> None:
    from_warm_up = FIRST(SAMPLES[1], TIMES[1])
    ahead = FIRST(SAMPLES[2], TIMES[3])
    wanted = [
        _fresh(0),
        _fresh(1),
        SECOND(from_warm_up, TIMES[2]),
        SECOND(from_warm_up, TIMES[3]),
        SECOND(ahead, TIMES[4]),
        SECOND(ahead, TIMES[5]),
    ]
    assert _all_equal(_predictions(COMPONENTS, stride=2), wanted)


def test_stride_two_of_one_component_computes_every_other_sample() -> None:
    wanted = [_fresh(0), _fresh(1)]
    for step in (2, 4):
        wanted += [MODEL(SAMPLES[step], TIMES[step]), MODEL(SAMPLES[step], TIMES[step + 1])]
    assert _all_equal(_predictions([["first", "second"]], stride=2), wanted)
