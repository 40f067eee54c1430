"""l2c and dip-go: which layers a column stands for, and which cells are chosen from measured changes."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from caching.interpreter import Interpreter
from caching.tiny import skips_program, stack_program, tokens
from hypothesis import given
from hypothesis import strategies as st

import graphopt
from graphopt.cuts import Cut
from graphopt.errors import PreconditionError, SpecError
from graphopt.pass_manager import PassContext
from graphopt.passes.caching.calibration import recorded, step_changes
from graphopt.passes.caching.tables import chosen_cells
from graphopt.program import Program
from graphopt.runtime.session import CacheSession

STEPS = [tokens(step) for step in range(5)]


@cache
def program() -> Program:
    return stack_program()


def table_of(spec: str) -> list[str]:
    result = graphopt.Pipeline(spec).run(program(), PassContext(calibration=STEPS))
    (note,) = [note for note in result.report.passes[0].notes if note.startswith("table=")]
    return note.removeprefix("table=[").removesuffix("]").split(",")


@pytest.mark.parametrize(
    ("spec", "cuts"),
    [
        ("l2c{table=[000,111]}", ["linear_5", "linear_9", "linear_13"]),
        ("dip-go{table=[000,111]}", ["linear_1:add_1", "add_1:add_3", "add_3:add_5"]),
        ("l2c{table=[000,010]}", ["linear_9"]),
    ],
)
def test_columns_are_layers_in_order_and_unread_ones_are_not_kept(spec: str, cuts: list[str]) -> None:
    schedule = graphopt.Pipeline(spec).run(program()).schedule
    assert schedule is not None
    assert [str(slot.cut) for slot in schedule.slots.values()] == cuts


def test_a_given_table_is_played() -> None:
    table = ["000", "110", "011", "000", "101"]
    result = graphopt.Pipeline(f"l2c{{table=[{','.join(table)}]}}").run(program())
    names = ["linear_5", "linear_9", "linear_13"]
    session, oracle = CacheSession(result), Interpreter(program(), list(map(Cut, names)))
    for step, row in enumerate(table):
        reads = frozenset(name for name, digit in zip(names, row, strict=True) if digit == "1")
        assert torch.equal(session(*tokens(step)), oracle.step(reads, *tokens(step)))


@pytest.mark.parametrize("spec", ["l2c{ratio=0.5}", "dip-go{ratio=0.5}", "l2c{ratio=1.0}", "l2c{ratio=0.0}"])
def test_cells_are_chosen_where_allowed_and_to_the_share(spec: str) -> None:
    table = table_of(spec)
    assert len(table) == len(STEPS)
    assert table[0] == "000"
    rows = [1, 3] if spec.startswith("l2c") else [1, 2, 3, 4]
    assert all(row == "000" for step, row in enumerate(table) if step not in rows)
    share = float(spec.split("=")[1].rstrip("}"))
    assert sum(row.count("1") for row in table) == pytest.approx(share * 3 * len(rows), abs=1)


def test_no_data_and_other_widths_are_refused() -> None:
    with pytest.raises(PreconditionError, match="l2c without a table needs data and found none"):
        graphopt.Pipeline("l2c").run(program())
    with pytest.raises(SpecError, match=r"l2c: found rows of 2 digits, wanted 3: one for each of linear_5, linear_9"):
        graphopt.Pipeline("l2c{table=[00,11]}").run(program())
    with pytest.raises(PreconditionError, match="found no calibration step"):
        graphopt.Pipeline("l2c").run(program(), PassContext(calibration=[]))


def test_with_long_skips_the_sample_stays_in_every_row() -> None:
    images = skips_program()
    result = graphopt.Pipeline("l2c{ratio=1.0}").run(images, PassContext(calibration=[images.args, images.args]))
    session = CacheSession(result)
    first, other = session(*images.args), session(images.args[0] + 1, *images.args[1:])
    assert session.decisions[1].program == "cached"
    assert not torch.equal(first, other)


def test_changes_are_relative_to_the_step_before() -> None:
    cuts = [Cut("linear_9"), Cut("add_3", "add_1")]
    rows = step_changes(program(), cuts, STEPS)
    assert rows[0] == [float("inf")] * 2
    values = [[tensor.clone() for tensor in step] for step in recorded(program(), cuts, STEPS)]
    for step in range(1, len(STEPS)):
        for place in range(2):
            now, before = values[step][place], values[step - 1][place]
            assert rows[step][place] == pytest.approx(
                float((now - before).abs().mean() / before.abs().mean()), rel=1e-5
            )
    torch.testing.assert_close(values[2][0], values[2][1], rtol=0, atol=1e-5)


CHANGES = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(1, 20).map(float), min_size=width, max_size=width), min_size=2, max_size=7
    )
)


@given(CHANGES, st.floats(0, 1), st.booleans())
def test_the_smallest_limit_that_reaches_the_share(changes: list[list[float]], ratio: float, odd: bool) -> None:
    def reusable(step: int) -> bool:
        return step % 2 == 1 or not odd

    found = chosen_cells(changes, ratio, reusable)
    count = sum(map(sum, found))
    free = [step for step in range(1, len(changes)) if reusable(step)]
    wanted = int(ratio * len(free) * len(changes[0]))
    assert count >= wanted
    assert all(not any(row) for step, row in enumerate(found) if step not in free)
    best = max((total(changes, found, place) for place in range(len(changes[0]))), default=0.0)
    tighter = [cells(changes, free, limit) for limit in {best - 0.5}] if count else []
    assert all(sum(map(sum, table)) < wanted or not wanted for table in tighter)


def cells(changes: list[list[float]], free: list[int], limit: float) -> list[list[bool]]:
    """The cells that a limit on the summed change leaves, written out."""
    sums = [0.0] * len(changes[0])
    rows = []
    for step, row in enumerate(changes):
        sums = [total + change for total, change in zip(sums, row, strict=True)]
        rows.append([step in free and total <= limit for total in sums])
        sums = [total if reused else 0.0 for total, reused in zip(sums, rows[-1], strict=True)]
    return rows


def total(changes: list[list[float]], table: list[list[bool]], place: int) -> float:
    """The largest change that a column has gathered while it was reused."""
    worst = now = 0.0
    for row, reused in zip(changes, table, strict=True):
        now = now + row[place] if reused[place] else 0.0
        worst = max(worst, now)
    return worst
