"""Links: the fit of latency and bandwidth, tables and their files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import PlanError
from graphopt.partition.links import DEFAULT_LINK, Link, LinkTable, fit_link, load_links


@given(st.floats(0, 1e-2), st.floats(1e3, 1e12), st.lists(st.integers(0, 10**8), min_size=2, max_size=6, unique=True))
def test_exact_samples_give_the_link_back(latency: float, bandwidth: float, sizes: list[int]) -> None:
    link = Link(latency, bandwidth)
    samples = [(size, link.seconds(size) + 1e-9) for size in sizes]
    fitted = fit_link(samples)
    for size, seconds in samples:
        assert fitted.seconds(size) == pytest.approx(seconds, rel=1e-4)


def test_neither_latency_nor_bandwidth_gets_negative() -> None:
    assert fit_link([(1000, 1e-3), (2000, 3e-3)]).latency_seconds == 0.0  # a line through them would start below 0
    falling = fit_link([(1000, 3e-3), (2000, 1e-3)])
    assert falling.bytes_per_second == math.inf
    assert 1e-3 < falling.latency_seconds < 3e-3


@pytest.mark.parametrize("samples", [[], [(8, 1.0)], [(8, 1.0), (8, 2.0)], [(8, 1.0), (9, 0.0)]])
def test_samples_that_say_nothing_are_refused(samples: list[tuple[float, float]]) -> None:
    with pytest.raises(PlanError, match="of two sizes or more"):
        fit_link(samples)


def test_a_table_goes_through_its_file(tmp_path: Path) -> None:
    table = LinkTable(Link(1e-5, 1e9), {(0, 1): Link(0.0, 2e9), (1, 0): Link(1e-3, 5e8)})
    path = tmp_path / "links.json"
    path.write_text(json.dumps(table.to_dict()))
    assert load_links(path) == table
    assert load_links(None).link(3, 4) == DEFAULT_LINK


def test_extremes_into_a_device_bound_all_its_links() -> None:
    table = LinkTable(Link(1.0, 10.0), {(0, 2): Link(5.0, 20.0)})
    assert table.slowest_into(2, 3) == Link(5.0, 10.0)
    assert table.fastest_into(2, 3) == Link(1.0, 20.0)
    assert not table.is_uniform(3)
    assert table.is_uniform(2)
    assert table.slowest_into(0, 1) == table.default


@pytest.mark.parametrize("text", ["", "[]", '{"default": {"latency_seconds": 1}}', '{"pairs": [{"source": 0}]}'])
def test_damaged_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "links.json"
    path.write_text(text)
    with pytest.raises(PlanError, match="links"):
        load_links(path)
    with pytest.raises(PlanError, match="cannot read links"):
        load_links(tmp_path / "none.json")


@pytest.mark.parametrize(("latency", "bandwidth"), [(-1.0, 1.0), (0.0, 0.0), (math.nan, 1.0)])
def test_what_is_no_link_is_refused(latency: float, bandwidth: float) -> None:
    with pytest.raises(PlanError, match="wanted a latency of 0 or more"):
        Link(latency, bandwidth)
