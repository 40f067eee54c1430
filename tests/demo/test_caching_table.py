from graphopt.demo.caching_quality import Contest, Entry, Quality
from graphopt.demo.caching_table import outcome, quality_table, tally


def entry(name: str, steps: int, time: float, draws: list[tuple[float, float, float]]) -> Entry:
    """A sampler with accuracy, Fréchet distance and error under each seed."""
    made = [
        Quality(accuracy=accuracy, frechet=frechet, error=error, seconds_per_image=0.1)
        for accuracy, frechet, error in draws
    ]
    return Entry(name=name, steps=steps, relative_time=time, draws=tuple(made))


FULL = entry("full", 20, 1.0, [(1.0, 10.0, 0.0), (0.98, 14.0, 0.0)])
HALF = entry("fewer steps", 10, 0.5, [(0.9, 12.0, 0.04), (0.8, 16.0, 0.06)])
CONTESTS = (
    # Fréchet distance: more at every seed, though by less than the seeds differ.
    Contest(entry("cache{n=2}", 20, 0.534, [(0.91, 13.0, 0.02), (0.79, 17.0, 0.04)]), HALF),
    Contest(entry("cache{n=3}", 20, 0.48, [(0.5, 13.0, 0.1), (0.4, 15.0, 0.12)]), HALF),
)

TABLE = """\
| sampler | steps | time | right % | Fréchet | error % | against equal time |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
| full | 20 | 1.00 | 99.0 ± 1.4 | 12.0 ± 2.8 | 0.00 ± 0.00 |  |
| fewer steps | 10 | 0.50 | 85.0 ± 7.1 | 14.0 ± 2.8 | 5.00 ± 1.41 |  |
| `cache{n=2}` | 20 | 0.53 | 85.0 ± 8.5 | 15.0 ± 2.8 | 3.00 ± 1.41 | right % even, Fréchet loss, error % win |
| ↳ fewer steps | 10 | 0.50 | 85.0 ± 7.1 | 14.0 ± 2.8 | 5.00 ± 1.41 |  |
| `cache{n=3}` | 20 | 0.48 | 45.0 ± 7.1 | 14.0 ± 1.4 | 11.00 ± 1.41 | right % loss, Fréchet even, error % loss |
| ↳ fewer steps | 10 | 0.50 | 85.0 ± 7.1 | 14.0 ± 2.8 | 5.00 ± 1.41 |  |
"""


def test_table() -> None:
    assert quality_table((FULL, HALF), CONTESTS) == TABLE


def test_outcome_is_that_of_the_cache() -> None:
    assert outcome(Contest(HALF, CONTESTS[1].cached)) == {"right %": "win", "Fréchet": "even", "error %": "win"}


def test_wins_and_losses_are_counted() -> None:
    wanted = "right %: 0 won, 1 lost, 1 even; Fréchet: 0 won, 1 lost, 1 even; error %: 1 won, 1 lost, 0 even"
    assert tally(CONTESTS) == wanted
