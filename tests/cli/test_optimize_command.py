import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt.cli.targets import Target
from graphopt.cli.user_code import build_model

Run = Callable[..., Any]
PASSES = "prune-channels{ratio=0.5}"


def test_the_table_says_what_was_removed(run: Run) -> None:
    outcome = run("optimize", "net_model.py:build", "--passes", PASSES)
    rows = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert (outcome.code, outcome.err) == (0, "")
    assert "parameters 420 212 50.5%" in rows
    assert "MACs 768 384 50.0%" in rows
    assert "hidden 1 16 32" in rows
    assert "frozen: 3 dimensions; graphopt inspect tells why" in rows


def test_what_is_saved_is_what_python_makes(run: Run, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build_model(Target(str(saved.parent / "net_model.py"), "build"))
    expected = graphopt.optimize(built.model, built.args, passes=PASSES)
    loaded = graphopt.load(saved, model=built.model)
    assert loaded.plan is not None
    assert expected.plan is not None
    assert loaded.plan.to_dict() == expected.plan.to_dict()
    assert loaded.module()(*built.args).equal(expected.module()(*built.args))


def test_the_origin_is_kept_relative_to_the_folder(saved: Path) -> None:
    origin = json.loads((saved / "origin.json").read_text(encoding="utf-8"))
    manifest = json.loads((saved / "manifest.json").read_text(encoding="utf-8"))
    assert origin == {"version": 1, "place": "../net_model.py", "name": "build", "is_file": True}
    assert "origin.json" in manifest["files"]
    assert str(saved.parent) not in (saved / "plan.json").read_text(encoding="utf-8")


def test_an_earlier_result_is_replaced(run: Run, tmp_path: Path) -> None:
    words = ("optimize", "net_model.py:build", "--out", str(tmp_path / "out"), "--no-verify")
    first = run(*words, "--passes", PASSES)
    second = run(*words, "--passes", "prune-channels{ratio=0.25}")
    plan = json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
    assert (first.code, second.code) == (0, 0)
    assert len(plan["axes"]["up.weight:0"]["kept"]) == 24


@pytest.mark.parametrize("batches", ["listed", "batches"])
def test_gradients_from_batches_and_a_loss(run: Run, batches: str) -> None:
    data = ("--calibration", f"net_data.py:{batches}", "--loss", "net_data.py:loss")
    passes = "prune-channels{ratio=0.5,importance=taylor}"
    outcome = run("optimize", "net_model.py:build", "--passes", passes, *data, "--seed", "3", "--json")
    document = json.loads(outcome.out)
    entry = document["report"]["passes"][0]
    assert (document["model"], document["passes"], document["out"]) == ("Net", passes, None)
    assert (entry["before"]["parameters"], entry["after"]["parameters"]) == (420, 212)


def test_no_fuel_changes_nothing(run: Run) -> None:
    outcome = run("optimize", "net_model.py:build", "--passes", PASSES, "--fuel", "0", "--json")
    entry = json.loads(outcome.out)["report"]["passes"][0]
    assert entry["refused"] == ["not run: no fuel left"]


@pytest.mark.parametrize(
    ("passes", "lines"),
    [
        (
            "prune-chanels{ratio=0.5}",
            ["found no pass called 'prune-chanels'; did you mean prune-channels or prune-layers", 0],
        ),
        ("prune-channels{ratio=1.5}", ["prune-channels: option ratio: found 1.5, wanted a share in [0, 1)", 21]),
        ("prune-channels{ratio=0.5", ["found the end of the text", 24]),
    ],
)
def test_a_wrong_spec_has_a_caret(run: Run, passes: str, lines: list[Any]) -> None:
    outcome = run("optimize", "net_model.py:build", "--passes", passes)
    first, text, caret = outcome.err.splitlines()
    assert outcome.code == 1
    assert first.startswith(f"error: {lines[0]}")
    assert text == f"  {passes}"
    assert caret == " " * (2 + lines[1]) + "^"
    assert outcome.out == ""


def test_a_pass_that_fails_is_named_in_a_note(run: Run) -> None:
    passes = "prune-channels{ratio=0.5,importance=taylor}"
    outcome = run("optimize", "net_model.py:build", "--passes", passes)
    first, note = outcome.err.splitlines()
    assert outcome.code == 1
    assert first.startswith("error: gradients need a loss and found none")
    assert note == f"  in pass 1 of 1, {passes}; run before it: nothing"


def test_batches_that_run_out_are_refused(run: Run) -> None:
    outcome = run("optimize", "net_model.py:build", "--passes", PASSES, "--calibration", "net_data.py:iterator")
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert "which can be gone through once only" in outcome.err


def test_a_folder_of_others_is_refused_before_the_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    outcome = run("optimize", "no_such_file.py:build", "--passes", PASSES, "--out", str(tmp_path))
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {tmp_path} holds 1 files that no saved result put there (notes.txt)")
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_folder_without_a_parent_is_refused(run: Run, tmp_path: Path) -> None:
    outcome = run("optimize", "net_model.py:build", "--passes", PASSES, "--out", str(tmp_path / "a" / "b"))
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: cannot write {tmp_path / 'a' / 'b'}: the folder {tmp_path / 'a'} does not")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_captured(run: Run) -> None:
    outcome = run("optimize", "net_model.py:build_branching", "--passes", PASSES)
    assert outcome.code == 1
    assert outcome.err.startswith("error: Branching")
    assert "Traceback" not in outcome.err
