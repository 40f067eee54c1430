import hashlib
import json
from pathlib import Path

import pytest

from graphopt.errors import PlanError
from graphopt.exporters.manifest import check_manifest, check_sizes, listed_files, sha256_of, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.txt").write_text("b")
    write_manifest(tmp_path)
    return tmp_path


def test_every_file_is_listed_with_size_and_sum(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("a.bin", "deep/b.txt")}
    assert content == {
        "version": 1,
        "files": {
            "a.bin": {"sha256": sums["a.bin"], "size_bytes": 256},
            "deep/b.txt": {"sha256": sums["deep/b.txt"], "size_bytes": 1},
        },
    }
    assert (listed_files(folder), sha256_of(folder / "a.bin")) == ({"a.bin", "deep/b.txt"}, sums["a.bin"])


def test_writing_again_changes_nothing(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    write_manifest(folder)
    check_manifest(folder)
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("place", [0, 100, 255])
def test_a_flipped_byte_is_found(folder: Path, place: int) -> None:
    content = bytearray((folder / "a.bin").read_bytes())
    content[place] ^= 1
    (folder / "a.bin").write_bytes(content)
    check_manifest(folder, ["deep/b.txt"])
    with pytest.raises(PlanError, match=r"a\.bin was changed after it was saved"):
        check_manifest(folder)


def test_a_file_cut_short_is_found(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"12345")
    with pytest.raises(PlanError, match=r"a\.bin has 5 bytes where 256 were saved"):
        check_manifest(folder, ["a.bin"])


def test_a_missing_file_is_found(folder: Path) -> None:
    (folder / "deep" / "b.txt").unlink()
    with pytest.raises(PlanError, match=r"b\.txt cannot be read \(No such file or directory\)"):
        check_manifest(folder)


def test_a_file_that_is_not_listed_is_an_error(folder: Path) -> None:
    with pytest.raises(PlanError, match=r"manifest\.json does not list c\.txt"):
        check_manifest(folder, ["c.txt"])


def test_a_folder_without_list(tmp_path: Path) -> None:
    assert listed_files(tmp_path) == set()
    with pytest.raises(PlanError, match=r"is .* a saved result"):
        check_manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "\udcff",
        "[]",
        '{"version": 2, "files": {}}',
        '{"version": 1}',
        '{"version": 1, "files": {"a": 1}}',
        '{"version": 1, "files": {"../a": {}}}',
        '{"version": 1, "files": {"/a": {}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_list(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text, errors="surrogateescape")
    assert listed_files(folder) == set()
    with pytest.raises(PlanError, match=r"manifest\.json"):
        check_manifest(folder)


def test_sizes_alone_are_checked_without_reading_the_file(folder: Path) -> None:
    name = next(iter(json.loads((folder / "manifest.json").read_text())["files"]))
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    check_sizes(folder, (name,))
    with pytest.raises(PlanError, match="was changed"):
        check_manifest(folder, (name,))
    path.write_bytes(content + b"x")
    with pytest.raises(PlanError, match=f"has {len(content) + 1} bytes where {len(content)} were saved"):
        check_sizes(folder, (name,))
    path.unlink()
    with pytest.raises(PlanError, match="cannot be read"):
        check_sizes(folder, (name,))
    with pytest.raises(PlanError, match="does not list nothing"):
        check_sizes(folder, ("nothing",))
