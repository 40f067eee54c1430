import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import graphopt

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("passes", "kernels", "exporters")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_on_disk() -> list[str]:
    tops = {"graphopt": "graphopt", **{name: f"graphopt.{name}" for name in LINKED}}
    found = []
    for folder, package in tops.items():
        for directory, subdirectories, files in os.walk(ROOT / folder, followlinks=False):
            subdirectories[:] = [name for name in subdirectories if not (Path(directory) / name).is_symlink()]
            if not any(name.endswith(".py") for name in files):
                continue
            inside = Path(directory).relative_to(ROOT / folder).parts
            found.append(".".join((package, *inside)))
    return sorted(found)


def test_package_list_equals_the_disk(project: dict[str, Any]) -> None:
    listed = project["tool"]["setuptools"]["packages"]
    assert sorted(listed) == packages_on_disk()
    assert len(set(listed)) == len(listed)


def test_every_package_has_an_init_file() -> None:
    missing = []
    for package in packages_on_disk():
        folder = ROOT.joinpath(*package.split("."))
        if not (folder / "__init__.py").is_file():
            missing.append(package)
    assert missing == []


def test_package_dir_maps_the_linked_folders(project: dict[str, Any]) -> None:
    expected = {"graphopt": "graphopt", **{f"graphopt.{name}": name for name in LINKED}}
    assert project["tool"]["setuptools"]["package-dir"] == expected


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative_and_lead_to_the_top_level_folder(name: str) -> None:
    link = ROOT / "graphopt" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    assert link.resolve() == ROOT / name


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
@pytest.mark.parametrize("name", LINKED)
def test_links_are_committed_as_links(name: str) -> None:
    listing = subprocess.run(
        ["git", "ls-files", "--stage", "--", f"graphopt/{name}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    if not listing:
        pytest.skip("not committed yet")
    assert listing.split()[0] == "120000"


def test_version_is_the_same_everywhere(project: dict[str, Any]) -> None:
    assert project["project"]["version"] == graphopt.__version__


def test_pins_cover_every_requirement_of_dev(project: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0].lower().replace("_", "-"): line for line in lines if "==" in line}
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["dev"]
    missing = [name for name in (text.partition(">=")[0] for text in wanted) if name not in pins]
    assert missing == []
    assert not any("+" in line for line in pins.values()), "a local version such as +cpu cannot be installed elsewhere"


def test_makefile_documents_its_targets() -> None:
    environment = {**os.environ, "MAKEFLAGS": ""}
    text = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
    ).stdout
    named = {line.split()[1] for line in text.splitlines()}
    assert {"demo", "test", "check", "zoo", "fuzz", "bench", "docs", "clean"} <= named
