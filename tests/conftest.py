"""Fixtures and settings of all tests."""

import os
import random
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch
from zoo.torchvision_operators import torchvision_operators

GOLDEN = Path(__file__).parent / "golden"

torch.set_num_threads(1)

hypothesis.settings.register_profile("default", deadline=None, max_examples=30, derandomize=True, database=None)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
FUZZ = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"


TORCHVISION_OPERATORS = torchvision_operators()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the texts under tests/golden anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many random graphs were proved, and which coupling rules they were drawn from."""
    found = [dict(one.user_properties) for one in terminalreporter.stats.get("passed", ()) if one.when == "call"]
    graphs = sum(properties.get("random_graphs", 0) for properties in found)
    if graphs:
        drawn = {rule for properties in found for rule in properties.get("rules_drawn", ())}
        left = sorted({rule for properties in found for rule in properties.get("rules", ())} - drawn)
        terminalreporter.write_sep("-", "random graphs")
        terminalreporter.write_line(f"{graphs} graphs proved, drawn from {len(drawn)} rules; {len(left)} not drawn")
        terminalreporter.write_line(" ".join(left) if FUZZ else "make fuzz draws 2,000 and lists them")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return `check(name, text)`: compare text with tests/golden/name, or write it under --update-golden."""
    update = request.config.getoption("--update-golden")

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        text = text.rstrip("\n") + "\n"
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"no golden text {path}; write it with --update-golden and read it"
        assert text == path.read_text(encoding="utf-8"), f"differs from {path}; see --update-golden"

    return check


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed every random generator the same way before each test, and return the seed."""
    value = 0
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 - libraries under test read the global generator
    torch.manual_seed(value)
    return value
