import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphopt.demo.report import DemoReport, Figure, Row
from graphopt.demo.spread import Spread
from graphopt.errors import MissingExtraError

Run = Callable[..., Any]


def report(title: str, out: Path) -> DemoReport:
    rows = (
        Row(name="original", parameters=2_000_000, macs=4_000_000, quality={"accuracy": Spread.of([0.9])}),
        Row(name="pruned", parameters=1_000_000, macs=2_000_000, quality={"accuracy": Spread.of([0.8])}),
    )
    figures = {"accuracy": Figure("accuracy %", "{:.1f}", 100.0)}
    return DemoReport(title=title, rows=rows, figures=figures, files={"samples": out / "samples.png"})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, ...]]:
    """Put quick stand-ins in place of both demonstrations; return the folders they are called with."""
    pytest.importorskip("sklearn")
    made: list[tuple[Path, ...]] = []

    def run_dit(cache: Path, out: Path) -> DemoReport:
        made.append((cache, out))
        return report("digits", out)

    def run_minilm(out: Path) -> DemoReport:
        made.append((out,))
        return report("sentences", out)

    monkeypatch.setattr("graphopt.demo.run.run_dit", run_dit)
    monkeypatch.setattr("graphopt.demo.minilm.run_minilm", run_minilm)
    return made


def test_the_table_and_the_files(run: Run, calls: list[tuple[Path, ...]]) -> None:
    outcome = run("demo")
    rows = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert (outcome.code, outcome.err) == (0, "")
    assert calls == [(Path(".demo_cache"), Path("out/demo"))]
    assert any(row.startswith("original 2.00M 4.00M") for row in rows)
    assert "pruned 1.00M (50%) 2.00M (50%) 80.0" in rows
    assert rows[-1] == f"samples: {Path('out/demo/samples.png')}"


def test_the_other_model_as_json(run: Run, calls: list[tuple[Path, ...]], tmp_path: Path) -> None:
    outcome = run("demo", "--model", "minilm", "--out", str(tmp_path), "--json")
    document = json.loads(outcome.out)
    assert calls == [(tmp_path,)]
    assert (document["title"], document["rows"][1]["parameters"]) == ("sentences", 1_000_000)


def test_missing_packages_are_named(run: Run, calls: list[tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    def run_dit(*_: Path) -> DemoReport:
        raise MissingExtraError("dev")

    monkeypatch.setattr("graphopt.demo.run.run_dit", run_dit)
    outcome = run("demo")
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (1, "", 1)
    assert outcome.err.endswith("pip install 'graphopt[dev]'\n")
