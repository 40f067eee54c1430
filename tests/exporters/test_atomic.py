import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import ExportError
from graphopt.exporters.atomic import atomic_file, atomic_files, atomic_folder, foreign_files, recover
from graphopt.exporters.manifest import write_manifest

KILL_POINTS = Path(__file__).with_name("kill_points.py")


def save(target: Path, **texts: str) -> None:
    """Write a saved result: a marker, and files by stem."""
    with atomic_folder(target) as folder:
        (folder / "plan.json").write_text("{}")
        for stem, text in texts.items():
            (folder / f"{stem}.txt").write_text(text)
        write_manifest(folder)


def texts(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in folder.glob("*.txt")}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_with(code: int) -> object:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow beyond 4096 bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (names(tmp_path), texts(tmp_path / "out")) == (["out"], {"a": "1"})


def test_a_folder_has_the_usual_permissions(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.mkdir()
    save(tmp_path / "out", a="1")
    assert (tmp_path / "out").stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two steps"])
def test_an_earlier_result_is_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr("graphopt.exporters.atomic._exchange", lambda first, second: False)
    save(tmp_path / "out", a="1", b="2")
    save(tmp_path / "out", a="3")
    assert (names(tmp_path), texts(tmp_path / "out")) == (["out"], {"a": "3"})


def test_a_folder_that_may_not_be_written_to_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "result"
    save(target, first="old")
    allowed = os.access
    # Root may write everywhere, so that the mode alone would show nothing.
    monkeypatch.setattr(os, "access", lambda path, mode, **how: Path(path) != target and allowed(path, mode, **how))
    with pytest.raises(ExportError, match=r"may not be written to: allow it \(chmod u\+w\)"):
        save(target, first="new")
    assert texts(target) == {"first": "old"}
    assert names(tmp_path) == ["result"]


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    save(tmp_path / "out", a="1")
    assert texts(tmp_path / "out") == {"a": "1"}


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    save(tmp_path / "real", a="1")
    (tmp_path / "link").symlink_to("real")
    save(tmp_path / "link", a="2")
    assert (texts(tmp_path / "real"), (tmp_path / "link").is_symlink()) == ({"a": "2"}, True)


def test_an_error_in_the_block_leaves_the_old_folder(tmp_path: Path) -> None:
    save(tmp_path / "out", a="1")
    with pytest.raises(KeyError), atomic_folder(tmp_path / "out") as folder:
        raise KeyError((folder / "a.txt").write_text("2"))
    assert (names(tmp_path), texts(tmp_path / "out")) == (["out"], {"a": "1"})


def test_files_of_others_are_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(ExportError, match=r"holds 1 files .* \(chapter\.tex\).*choose another folder"):
        save(tmp_path / "thesis")
    assert names(tmp_path / "thesis") == ["chapter.tex"]


def test_files_added_to_a_saved_result_are_never_deleted(tmp_path: Path) -> None:
    save(tmp_path / "out", a="1")
    (tmp_path / "out" / "notes").mkdir()
    (tmp_path / "out" / "notes" / "mine.md").write_text("x")
    assert foreign_files(tmp_path / "out") == ["notes/mine.md"]
    with pytest.raises(ExportError, match=r"notes/mine\.md"):
        save(tmp_path / "out", a="2")
    assert texts(tmp_path / "out") == {"a": "1"}


def test_files_that_come_during_the_save_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match=r"late\.txt"), atomic_folder(tmp_path / "out"):
        (tmp_path / "out" / "late.txt").write_text("x")
    assert names(tmp_path / "out") == ["late.txt"]


def test_a_folder_without_readable_manifest_is_not_ours(tmp_path: Path) -> None:
    save(tmp_path / "out", a="1")
    (tmp_path / "out" / "manifest.json").write_text("[")
    assert foreign_files(tmp_path / "out") == ["a.txt", "manifest.json", "plan.json"]


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"the folder {tmp_path / 'no'} does not exist; create it first"):
        save(tmp_path / "no" / "out")
    with pytest.raises(ExportError, match="create it first"):
        atomic_file(tmp_path / "no" / "a.txt", b"1")
    assert names(tmp_path) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ExportError, match="is a file where a folder was to be written"):
        save(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "x"


def test_the_working_directory_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="is the working directory"):
        save(Path())
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "advice"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "where you may write"), (errno.EIO, "above")]
)
def test_what_the_system_refuses_is_an_export_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    save(tmp_path / "out", a="1")
    monkeypatch.setattr(os, "fsync", fail_with(code))
    with pytest.raises(ExportError, match=advice) as caught:
        save(tmp_path / "out", a="2")
    assert (names(tmp_path), texts(tmp_path / "out")) == (["out"], {"a": "1"})
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == code


@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_place_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(os, call, fail_with(errno.EACCES))
    with pytest.raises(ExportError, match="choose a place where you may write"):
        save(tmp_path / "out", a="1")
    assert names(tmp_path) == []


@pytest.mark.usefixtures("small_files")
def test_a_full_disk(tmp_path: Path) -> None:
    save(tmp_path / "out", a="1")
    with pytest.raises(ExportError, match="File too large"):
        save(tmp_path / "out", a="2" * 5000)
    with pytest.raises(ExportError, match="File too large"):
        atomic_file(tmp_path / "out" / "a.txt", b"2" * 5000)
    assert (names(tmp_path), texts(tmp_path / "out")) == (["out"], {"a": "1"})


def test_what_dead_processes_left_is_cleared_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    dead, living = tmp_path / ".out.00000000.partial", tmp_path / ".out.00000001.partial"
    other = tmp_path / ".outer.00000000.partial"
    for folder in (dead, living, other):
        folder.mkdir()
        (folder / "a.txt").write_text("x")
    descriptor = os.open(living, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    save(tmp_path / "out", a="1")
    os.close(descriptor)
    assert names(tmp_path) == [living.name, other.name, "out"]


def test_two_saves_at_a_time_both_end_well(tmp_path: Path) -> None:
    save(tmp_path / "out", a="0")
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "plan.json").write_text("{}")
        save(tmp_path / "out", a="1")
        assert texts(tmp_path / "out") == {"a": "1"}
    assert (names(tmp_path), names(tmp_path / "out")) == (["out"], ["plan.json"])


def test_recover_puts_the_old_folder_back(tmp_path: Path) -> None:
    save(tmp_path / "out", a="1")
    (tmp_path / "out").rename(tmp_path / ".out.previous")
    recover(tmp_path / "out")
    assert (names(tmp_path), texts(tmp_path / "out")) == (["out"], {"a": "1"})


def test_recover_clears_the_old_folder_where_the_new_one_came(tmp_path: Path) -> None:
    save(tmp_path / ".out.previous", a="1")
    save(tmp_path / "out", a="2")
    recover(tmp_path / "out")
    assert (names(tmp_path), texts(tmp_path / "out")) == (["out"], {"a": "2"})


def test_the_old_folder_returns_where_the_new_one_cannot_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "out", a="1")
    rename = os.rename

    def no_partial(source: str | Path, target: str | Path) -> None:
        if str(source).endswith(".partial"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        rename(source, target)

    monkeypatch.setattr("graphopt.exporters.atomic._exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", no_partial)
    with pytest.raises(ExportError, match="may write"):
        save(tmp_path / "out", a="2")
    assert (names(tmp_path), texts(tmp_path / "out")) == (["out"], {"a": "1"})


def test_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("1")
    (tmp_path / "link.txt").symlink_to("real.txt")
    atomic_file(tmp_path / "link.txt", b"2")
    assert (names(tmp_path), (tmp_path / "real.txt").read_text()) == (["link.txt", "real.txt"], "2")


def test_files_join_those_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("x")
    order, replace = [], os.replace

    def recorded(source: str | Path, target: str | Path) -> None:
        order.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", recorded)
    with atomic_files(tmp_path, last="a.txt") as folder:
        for name in ("a.txt", "b.txt", "c.txt"):
            (folder / name).write_text(name)
    assert texts(tmp_path) == {"mine": "x", "a": "a.txt", "b": "b.txt", "c": "c.txt"}
    assert order == ["b.txt", "c.txt", "a.txt"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    completed = subprocess.run(
        [sys.executable, str(KILL_POINTS), str(tmp_path_factory.mktemp("killed"))],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    found: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("mode", ["folder", "two-steps", "files", "file", "result"])
def test_a_killed_save_leaves_the_old_state_or_the_new_one(outcomes: dict[str, Any], mode: str) -> None:
    found = outcomes[mode]
    assert (set(found["states"]), found["leftovers"], found["finished"]) == ({"old", "new"}, [], True)
    assert min(found["states"].values()) >= 5


def test_a_plan_of_the_users_own_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan.json").write_text("mine")
    with pytest.raises(ExportError, match=r"plan\.json"):
        save(tmp_path / "out", a="1")
    assert (tmp_path / "out" / "plan.json").read_text() == "mine"
