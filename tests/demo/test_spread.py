import pytest

from graphopt.demo.spread import Spread, compare, compare_paired, summarise


def test_mean_and_sample_deviation() -> None:
    spread = Spread.of([1.0, 2.0, 6.0])
    assert (spread.mean, spread.deviation) == pytest.approx((3.0, 7**0.5))
    assert Spread.of([2.5]) == Spread(2.5, None)


def test_summary_keeps_the_names() -> None:
    found = summarise([{"a": 1.0, "b": 0.0}, {"a": 3.0, "b": 0.0}])
    assert found == {"a": Spread(2.0, pytest.approx(2**0.5)), "b": Spread(0.0, 0.0)}


@pytest.mark.parametrize(
    ("first", "second", "lower", "higher"),
    [
        (Spread(1.0, 0.1), Spread(2.0, 0.1), "better", "worse"),
        (Spread(2.0, 0.4), Spread(1.0, 0.5), "worse", "better"),
        (Spread(1.0, 0.6), Spread(2.0, 0.4), "no clear difference", "no clear difference"),
        (Spread(1.0), Spread(1.001), "better", "worse"),
        (Spread(1.0), Spread(1.0), "no clear difference", "no clear difference"),
    ],
)
def test_comparison(first: Spread, second: Spread, lower: str, higher: str) -> None:
    assert compare(first, second, lower_is_better=True) == lower
    assert compare(first, second, lower_is_better=False) == higher


@pytest.mark.parametrize(
    ("first", "second", "lower", "higher"),
    [
        ([1.0, 11.0, 21.0], [1.5, 11.4, 21.6], "better", "worse"),
        ([1.5, 11.4, 21.6], [1.0, 11.0, 21.0], "worse", "better"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "no clear difference", "no clear difference"),
        ([1.0], [1.001], "better", "worse"),
        ([1.0, 2.0], [1.0, 2.0], "no clear difference", "no clear difference"),
    ],
)
def test_paired_comparison_is_blind_to_what_the_seeds_share(
    first: list[float], second: list[float], lower: str, higher: str
) -> None:
    assert compare_paired(first, second, lower_is_better=True) == lower
    assert compare_paired(first, second, lower_is_better=False) == higher


def test_paired_figures_are_of_the_same_seeds() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare_paired([1.0, 2.0], [1.0], lower_is_better=True)
