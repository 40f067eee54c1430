from pathlib import Path

import pytest

from graphopt.cli.targets import Target
from graphopt.errors import CaptureError, SpecError


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("net_model.py", "found no name in a target, wanted a file and a name in it", 12),
        (":build", "found no name in a target", 6),
        ("net_model.py:", "found '' where a name should be", 13),
        ("net_model.py:a b", "found 'a b' where a name should be", 13),
    ],
)
def test_text_that_is_no_target(text: str, message: str, column: int) -> None:
    with pytest.raises(SpecError) as caught:
        Target.parse(text)
    first, line, caret = str(caught.value).splitlines()
    assert first.startswith(message)
    assert line == f"  {text}"
    assert caret.index("^") == column + 2


def test_a_target_is_read_at_its_last_colon() -> None:
    assert Target.parse("C:\\models\\net.py:build") == Target("C:\\models\\net.py", "build")
    assert str(Target.parse("package.module:build")) == "package.module:build"
    assert Target.parse("package.module:build").path is None
    assert Target.parse("./net.py:build").path == Path("net.py")


def test_a_file_is_run_once() -> None:
    assert Target("net_model.py", "net").load() is Target(str(Path("net_model.py").resolve()), "net").load()


def test_a_file_named_like_an_imported_module_is_run_too(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("import net_sibling\nvalue = net_sibling.value\n", encoding="utf-8")
    (tmp_path / "net_sibling.py").write_text("value = 7\n", encoding="utf-8")
    assert Target(str(tmp_path / "json.py"), "value").load() == 7


def test_a_dotted_module_is_found_in_the_working_directory() -> None:
    assert Target("net_model", "number").load() == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def build(:\n", "SyntaxError: invalid syntax"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import net_that_is_not_there\n", "ModuleNotFoundError: No module named 'net_that_is_not_there'"),
    ],
)
def test_a_file_that_does_not_run(tmp_path: Path, source: str, message: str) -> None:
    path = tmp_path / "net_broken.py"
    path.write_text(source, encoding="utf-8")
    for _ in range(2):
        with pytest.raises(CaptureError) as caught:
            Target(str(path), "build").load()
        assert str(caught.value).startswith(f"running {path} fails with {message}")


def test_a_module_whose_import_is_missing_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net_importing.py").write_text("import net_that_is_not_there\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaptureError, match="importing net_importing fails with ModuleNotFoundError"):
        Target("net_importing", "build").load()
