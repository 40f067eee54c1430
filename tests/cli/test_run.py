"""`graphopt run`: saved partitions in processes of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PARTITION = "partition{devices=2}"


@pytest.fixture(scope="module")
def out(folder: Path) -> Path:
    """Return a partitioned result that the command line has saved."""
    from graphopt.cli import main

    path = folder / "parted"
    assert main(["optimize", f"{folder / 'net_model.py'}:build", "--passes", PARTITION, "--out", str(path)]) == 0
    return path


@pytest.mark.slow
def test_a_run_equals_one_device_and_says_what_it_sent(run: Callable[..., Any], out: Path) -> None:
    found = run("run", str(out), "--nproc", "2", "--steps", "3", "--check", "--json", "--timeout", "20")
    assert found.code == 0, found.err
    last = json.loads(found.out.splitlines()[-1])
    assert list(last)[:4] == ["bit_equal", "error", "bytes", "seconds"]
    assert last["bit_equal"] is True
    assert last["emulated_equal"] is True
    assert last["error"] == 0.0
    assert last["steps"] == 3
    assert last["bytes"] == sum(one[3] for one in last["edge_bytes"]) > 0
    assert sum(last["parameter_bytes"]) == 4 * (8 * 32 + 32 + 32 * 4 + 4)
    assert max(last["parameter_bytes"]) < sum(last["parameter_bytes"])


@pytest.mark.slow
def test_another_number_of_processes_is_refused(run: Callable[..., Any], out: Path) -> None:
    found = run("run", str(out), "--nproc", "3", "--timeout", "20")
    assert found.code == 1
    assert found.err.count("error:") == 1
    assert "found 3 processes, wanted 2" in found.err


@pytest.mark.slow
def test_links_are_measured_without_a_folder(run: Callable[..., Any], folder: Path) -> None:
    found = run("run", "--nproc", "2", "--links", str(folder / "links.json"), "--json", "--timeout", "20")
    assert found.code == 0, found.err
    table = json.loads((folder / "links.json").read_text(encoding="utf-8"))
    assert table == json.loads(found.out.splitlines()[-1])
    assert all(0 <= one["latency_seconds"] < 0.1 < one["bytes_per_second"] for one in table["pairs"])


def test_a_result_without_a_partition_is_refused(run: Callable[..., Any], saved: Path) -> None:
    found = run("run", str(saved), "--nproc", "2")
    assert found.code == 1
    assert "is not partitioned; run the pass partition{devices=K}" in found.err


def test_nothing_to_run(run: Callable[..., Any]) -> None:
    found = run("run", "--nproc", "2")
    assert found.code == 1
    assert "found no folder" in found.err
