"""The quality of cached sampling as a Markdown table, wins and losses alike."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from graphopt.demo.caching_quality import FIGURES, Contest, Entry
from graphopt.demo.spread import Spread, compare_paired

_WORDS = {"better": "win", "worse": "loss", "no clear difference": "even"}


def quality_table(uncached: Iterable[Entry], contests: Iterable[Contest]) -> str:
    """Return one row for every sampler; a cached one is followed by fewer steps at equal time, and judged against it.

    Args:
        uncached: The full run and those with fewer steps.
        contests: The cached samplers.
    """
    heads = ("sampler", "steps", "time", *(figure.title for figure in FIGURES.values()), "against equal time")
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 2), "---"])]
    lines.extend(_line(_cells(entry, entry.name)) for entry in uncached)
    for contest in contests:
        said = ", ".join(f"{title} {word}" for title, word in outcome(contest).items())
        lines.append(_line(_cells(contest.cached, f"`{contest.cached.name}`", said)))
        lines.append(_line(_cells(contest.baseline, f"↳ {contest.baseline.name}")))
    return "\n".join(lines) + "\n"


def outcome(contest: Contest) -> dict[str, str]:
    """Return ``win``, ``loss`` or ``even`` of the cached sampler by title of the figure.

    Both start from the same noise at every seed, so that they are compared seed by seed.

    Args:
        contest: The cached sampler and its baseline.
    """
    found = {}
    for name, figure in FIGURES.items():
        values = contest.cached.values(name), contest.baseline.values(name)
        found[figure.title] = _WORDS[compare_paired(*values, lower_is_better=figure.lower_is_better)]
    return found


def tally(contests: Sequence[Contest]) -> str:
    """Return one line that counts wins and losses by figure.

    Args:
        contests: The cached samplers.
    """
    outcomes = [outcome(contest) for contest in contests]
    return "; ".join(_counted(figure.title, outcomes) for figure in FIGURES.values())


def _counted(title: str, outcomes: Iterable[Mapping[str, str]]) -> str:
    count = Counter(found[title] for found in outcomes)
    return f"{title}: {count['win']} won, {count['loss']} lost, {count['even']} even"


def _cells(entry: Entry, name: str, said: str = "") -> Iterator[str]:
    yield from (name, str(entry.steps), f"{entry.relative_time:.2f}")
    for key, figure in FIGURES.items():
        yield figure.show(Spread.of(entry.values(key)))
    yield said


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
