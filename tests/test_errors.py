import inspect
import pickle

import pytest

from graphopt import errors


def test_every_error_derives_from_the_root() -> None:
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass)]
    assert len(classes) == 16
    assert [item for item in classes if not issubclass(item, errors.GraphoptError)] == []


def test_pass_errors_are_told_apart_from_the_rest() -> None:
    assert issubclass(errors.PreconditionError, errors.PassError)
    assert issubclass(errors.PostconditionError, errors.PassError)
    assert not issubclass(errors.SpecError, errors.PassError)


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("abc", 0, "wrong\n  abc\n  ^"),
        ("abc", 3, "wrong\n  abc\n     ^"),
        ("", 0, "wrong\n  \n  ^"),
        ("ab,\ncd,\nef", 5, "wrong\n  cd,\n   ^"),
    ],
)
def test_caret_stands_under_the_fault(text: str, position: int, expected: str) -> None:
    assert str(errors.SpecError("wrong", text, position)) == expected


def test_spec_error_without_text_is_its_message() -> None:
    assert str(errors.SpecError("wrong")) == "wrong"


def test_missing_extra_names_the_command() -> None:
    error = errors.MissingExtraError("onnx")
    assert str(error).endswith("run: pip install 'graphopt[onnx]'")
    assert isinstance(error, ImportError)


@pytest.mark.parametrize("error", [errors.SpecError("m", "text", 2, "key"), errors.MissingExtraError("onnx")])
def test_errors_travel_between_processes(error: errors.GraphoptError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # what multiprocessing does with a worker's error
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
