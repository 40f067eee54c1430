from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import pytest

from graphopt.cli import main
from graphopt.version import __version__

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ((), "graphopt inspect my_model.py:build"),
        (("inspect",), "graphopt inspect my_model.py:build"),
        (("optimize",), 'graphopt optimize my_model.py:build --passes "prune-channels{ratio=0.5}" --out out/'),
        (("apply",), "graphopt apply out/plan.json model.safetensors.index.json --out small/"),
        (("export",), "graphopt export out/ --onnx --opset 20"),
        (("bench",), "graphopt bench out/ --repeats 50 --threads 1"),
        (("demo",), "graphopt demo --model minilm"),
    ],
)
def test_help_ends_with_an_example(run: Run, command: tuple[str, ...], example: str) -> None:
    outcome = run(*command, "--help")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0].startswith(" ".join(("Usage: graphopt", *command)))
    assert [line.strip() for line in outcome.out.rstrip().splitlines()[-2:]] == ["Example:", example]


def test_no_words_show_the_commands(run: Run) -> None:
    outcome = run()
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.split("Commands:")[1].splitlines()[1:8]] == [
        "inspect",
        "optimize",
        "apply",
        "export",
        "bench",
        "run",
        "demo",
    ]


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect",), "Missing argument 'FILE.py:NAME'; see graphopt inspect --help"),
        (("optimize", "a.py:b"), "Missing option '--passes'; see graphopt optimize --help"),
        (("bench", "out", "--repeats", "many"), "Invalid value for '--repeats'"),
        (("bench", "out", "--repeats", "1"), "Invalid value for '--repeats'"),
        (("bench", "out", "--threads", "0"), "Invalid value for '--threads'"),
        (("optimize", "a.py:b", "--passes", "p", "--fuel", "-1"), "Invalid value for '--fuel'"),
        (("demo", "--model", "resnet"), "Invalid value for '--model'"),
        (("inspect", "a.py:b", "--fast"), "No such option: --fast"),
        (("prune",), "No such command 'prune'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_two(run: Run, words: tuple[str, ...], message: str) -> None:
    outcome = run(*words)
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
    assert outcome.err.startswith(f"error: {message}")


def test_traceback_on_demand(run: Run) -> None:
    short = run("inspect", "net_model.py:build_raising")
    long = run("inspect", "net_model.py:build_raising", "--traceback")
    assert (short.code, long.code) == (1, 1)
    assert len(short.err.splitlines()) == 1
    assert long.err.startswith("Traceback (most recent call last):\n")
    assert "IndexError" in long.err
    assert long.err.endswith(short.err)


def test_an_unforeseen_error_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(*_: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("graphopt.capture", capture)
    outcome = run("inspect", "net_model.py:build_named", "--json")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == ("error: KeyError: 'lost'; this was not foreseen: --traceback shows where it comes from\n")


def test_an_interrupt_ends_quietly(run: Run) -> None:
    outcome = run("inspect", "net_model.py:with_interrupt")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "error: interrupted\n")


def test_progress_shows_on_a_terminal_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = run("inspect", "net_model.py:build_named", "--json")
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = run("inspect", "net_model.py:build_named", "--json")
    assert silent.err == ""
    assert "capturing" in shown.err
    assert shown.out == silent.out


def test_the_installed_script_runs_main() -> None:
    (script,) = entry_points(group="console_scripts", name="graphopt")
    assert script.load() is main
