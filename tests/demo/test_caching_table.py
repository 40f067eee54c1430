from graphopt.demo.caching_quality import Contest, Entry
from graphopt.demo.caching_table import outcome, quality_table, tally
from graphopt.demo.spread import Spread


def entry(name: str, steps: int, time: float, accuracy: float, frechet: float, error: float) -> Entry:
    means = {"accuracy": accuracy, "frechet": frechet, "error": error}
    quality = {key: Spread(mean, 0.01 * mean) for key, mean in means.items()}
    return Entry(name=name, steps=steps, relative_time=time, quality=quality)


FULL = entry("full", 20, 1.0, 1.0, 10.0, 0.0)
HALF = entry("fewer steps", 10, 0.5, 0.9, 12.0, 0.04)
CONTESTS = (
    Contest(entry("cache{n=2}", 20, 0.534, 0.91, 14.0, 0.02), HALF),
    Contest(entry("cache{n=3}", 20, 0.48, 0.5, 12.1, 0.1), HALF),
)

TABLE = """\
| sampler | steps | time | right % | Fréchet | error % | against equal time |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
| full | 20 | 1.00 | 100.0 ± 1.0 | 10.0 ± 0.1 | 0.00 ± 0.00 |  |
| fewer steps | 10 | 0.50 | 90.0 ± 0.9 | 12.0 ± 0.1 | 4.00 ± 0.04 |  |
| `cache{n=2}` | 20 | 0.53 | 91.0 ± 0.9 | 14.0 ± 0.1 | 2.00 ± 0.02 | right % even, Fréchet loss, error % win |
| ↳ fewer steps | 10 | 0.50 | 90.0 ± 0.9 | 12.0 ± 0.1 | 4.00 ± 0.04 |  |
| `cache{n=3}` | 20 | 0.48 | 50.0 ± 0.5 | 12.1 ± 0.1 | 10.00 ± 0.10 | right % loss, Fréchet even, error % loss |
| ↳ fewer steps | 10 | 0.50 | 90.0 ± 0.9 | 12.0 ± 0.1 | 4.00 ± 0.04 |  |
"""


def test_table() -> None:
    assert quality_table((FULL, HALF), CONTESTS) == TABLE


def test_outcome_is_that_of_the_cache() -> None:
    assert outcome(Contest(HALF, CONTESTS[1].cached)) == {"right %": "win", "Fréchet": "even", "error %": "win"}


def test_wins_and_losses_are_counted() -> None:
    wanted = "right %: 0 won, 1 lost, 1 even; Fréchet: 0 won, 1 lost, 1 even; error %: 1 won, 1 lost, 0 even"
    assert tally(CONTESTS) == wanted
