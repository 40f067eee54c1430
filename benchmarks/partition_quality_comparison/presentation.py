"""The quality of partitioned sampling as Markdown, wins and losses alike."""

import math
from collections.abc import Iterable, Sequence

from graphopt.demo.caching_quality import FIGURES, Contest, Entry
from graphopt.demo.caching_table import outcome
from graphopt.demo.spread import Spread
from partition_quality_comparison.contest import Section

_HEADS = (
    "sampler",
    "time",
    "kB sent",
    *(figure.title for figure in FIGURES.values()),
    "ratio",
    "seeds won",
    "against equal time",
)


def section_text(section: Section) -> str:
    """Return a section: each way, below it one device with fewer steps in the same time.

    Args:
        section: One model with one number of steps.
    """
    sampling = section.sampling
    sent = {name: f"{size / 1e3:.1f}" for name, size in section.sent_bytes.items()}
    lines = [
        f"## {title(section)}",
        "",
        f"{sampling.count} images for each of {len(sampling.seeds)} seeds; mean ± deviation over the seeds.",
        "",
        _row(_HEADS),
        _row(["---", *["---:"] * (len(_HEADS) - 2), "---"]),
        _row([*_cells(section.full), "", "", ""]),
    ]
    for contest in section.contests:
        said = ", ".join(f"{name} {word}" for name, word in outcome(contest).items())
        lines.append(
            _row(
                [
                    *_cells(contest.cached, sent=sent.get(contest.cached.name, "")),
                    f"{error_ratio(contest):.2f}",
                    _won(contest),
                    said,
                ]
            )
        )
        lines.append(_row([*_cells(contest.baseline, "↳ "), "", "", ""]))
    lines.append("")
    lines += [f"* {name} could not be taken: {reason}" for name, reason in section.refused.items()]
    return "\n".join(lines).rstrip() + "\n"


def summary_text(sections: Sequence[Section]) -> str:
    """Return one table over all sections: error over that of fewer steps in the same time, and seeds won.

    Args:
        sections: Sections whose ways bear the same names.
    """
    names = list(dict.fromkeys(contest.cached.name for section in sections for contest in section.contests))
    lines = [_row(["sampler", *map(title, sections), "seeds won"]), _row(["---", *["---:"] * (len(sections) + 1)])]
    for name in names:
        found = [_named(section, name) for section in sections]
        cells = ["" if contest is None else f"{error_ratio(contest):.2f}" for contest in found]
        contests = [contest for contest in found if contest is not None]
        total = sum(len(contest.cached.draws) for contest in contests)
        lines.append(_row([name, *cells, f"{sum(map(seeds_won, contests))} of {total}"]))
    return "\n".join(lines) + "\n"


def title(section: Section) -> str:
    """Return what a section is called: model, what it predicts, and steps."""
    sampling = section.sampling
    guidance = f", guidance {sampling.guidance:g}" if sampling.guidance != 1 else ""
    return f"{section.model} ({section.target}), {sampling.steps} steps{guidance}"


def error_ratio(contest: Contest) -> float:
    """Return the error of a way over that of its baseline, both as the mean over the seeds."""
    baseline = sum(contest.baseline.values("error"))
    return sum(contest.cached.values("error")) / baseline if baseline else math.inf


def seeds_won(contest: Contest) -> int:
    """Return the number of seeds at which a way has less error than its baseline."""
    pairs = zip(contest.cached.values("error"), contest.baseline.values("error"), strict=True)
    return sum(one < other for one, other in pairs)


def _won(contest: Contest) -> str:
    return f"{seeds_won(contest)} of {len(contest.cached.draws)}"


def _named(section: Section, name: str) -> Contest | None:
    return next((contest for contest in section.contests if contest.cached.name == name), None)


def _cells(entry: Entry, prefix: str = "", sent: str = "") -> list[str]:
    name = f"{prefix}one device, {entry.steps} steps" if entry.name in ("full", "fewer steps") else entry.name
    figures = (figure.show(Spread.of(entry.values(key))) for key, figure in FIGURES.items())
    return [name, f"{entry.relative_time:.2f}", sent, *figures]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
