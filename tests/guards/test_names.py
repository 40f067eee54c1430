import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import graphopt

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("graphopt", "passes", "kernels", "exporters")
VAGUE = {"utils", "util", "helpers", "helper", "misc", "common"}
LONGEST_FILE = 400


def sources() -> list[Path]:
    found = []
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*.py") if not in_link(path)]
    return sorted(found)


def in_link(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents)


def undocumented(tree: ast.Module, label: str) -> Iterator[str]:
    """Yield the public names of a module, and of its public classes, that have no docstring."""
    if ast.get_docstring(tree) is None:
        yield label
    for node in tree.body:
        yield from undocumented_definition(node, label)


def undocumented_definition(node: ast.stmt, label: str) -> Iterator[str]:
    if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
        return
    if ast.get_docstring(node) is None and not is_overload(node):
        yield f"{label}:{node.name}"
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            yield from undocumented_definition(inner, f"{label}:{node.name}")


def is_overload(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)


def test_every_public_name_has_a_docstring() -> None:
    missing = []
    for path in sources():
        missing += list(undocumented(ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(ROOT))))
    assert missing == []


def test_no_module_bears_the_name_of_a_public_name() -> None:
    modules = {path.stem for path in (ROOT / "graphopt").glob("*.py")}
    modules |= {path.name for path in (ROOT / "graphopt").iterdir() if path.is_dir()}
    assert modules & set(graphopt.__all__) == set()


def test_public_names_are_there() -> None:
    assert [name for name in graphopt.__all__ if not hasattr(graphopt, name)] == []


@pytest.mark.parametrize("folder", [*FOLDERS, "tests"])
def test_no_file_has_a_name_that_says_nothing(folder: str) -> None:
    paths = [path for path in (ROOT / folder).rglob("*") if path.stem in VAGUE and not in_link(path)]
    assert paths == []


def test_no_file_is_too_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_relative_import() -> None:
    found = []
    for path in sources():
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        lines = [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
        found += [f"{path.relative_to(ROOT)}:{line}" for line in lines]
    assert found == []
