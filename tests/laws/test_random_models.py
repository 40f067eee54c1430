"""The laws on 520 random models, each proved all at once and on an axis alone; most of them with the slow tests."""

import hypothesis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.checks import check
from laws.shapes import Net
from laws.specs import nets

PARTS, ALWAYS, MODELS = 20, 7, 26
relaxed = settings(deadline=None, max_examples=MODELS, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(
    "part", [*range(ALWAYS), *(pytest.param(part, marks=pytest.mark.slow) for part in range(ALWAYS, PARTS))]
)
def test_laws_hold_on_random_models(part: int) -> None:
    seen = []

    @hypothesis.seed(part)
    @relaxed
    @given(net=nets(), seed=st.integers(0, 1000))
    def run(net: Net, seed: int) -> None:
        seen.append(check(net, seed, fresh=len(seen) % 6 == 0, most=1))

    run()
    assert len(seen) >= MODELS
    assert sum(entry.axes for entry in seen) > MODELS


@pytest.mark.slow
@settings(relaxed, max_examples=max(MODELS, settings().max_examples))
@given(net=nets(), seed=st.integers(0, 1000))
def test_laws_hold_on_every_axis(net: Net, seed: int) -> None:
    found = check(net, seed, fresh=True)
    assert found.without_effect <= found.axes
