import pytest

from graphopt.report.figures import figure, milliseconds, share, short


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.4, "999"),
        (999.6, "1k"),
        (1000, "1k"),
        (1234, "1.23k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (859_520_964, "860M"),
        (1.5e12, "1.5T"),
        (2.5e15, "2500T"),
        (0.125, "0.125"),
        (-1234, "-1.23k"),
    ],
)
def test_short_numbers(count: float, text: str) -> None:
    assert short(count) == text


def test_shares_and_times() -> None:
    assert share(1, 8) == "12.5%"
    assert share(1, 0) == ""
    assert milliseconds(0.012345) == "12.3 ms"
    assert milliseconds(None) == "-"


def test_a_figure_is_read_by_its_name() -> None:
    assert figure("parameter_bytes", 1680) == "1.68kB"
    assert figure("torch_seconds", 0.5) == "500 ms"
    assert figure("macs", 768) == "768"
