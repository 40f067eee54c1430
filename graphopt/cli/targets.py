"""Targets such as ``my_model.py:build``: a name in one of the user's files or modules."""

import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from graphopt.capture_failure import Attempt, summary
from graphopt.errors import CaptureError, SpecError
from graphopt.pass_manager.suggestions import nearest

WANTED = (
    "wanted a file and a name in it, such as my_model.py:build, or a module and a name, such as package.module:build"
)


@dataclass(frozen=True)
class Target:
    """A name in a file or module.

    Attributes:
        place: Path of a file ending in ``.py``, or dotted name of a module.
        name: What is meant there.
    """

    place: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read ``place:name``.

        Raises:
            SpecError: The text is none.
        """
        place, separator, name = text.rpartition(":")
        if not separator or not place:
            raise SpecError(f"found no name in a target, {WANTED}", text=text, position=len(text))
        if not name.isidentifier():
            raise SpecError(f"found {name!r} where a name should be, {WANTED}", text=text, position=len(place) + 1)
        return cls(place, name)

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"

    @property
    def path(self) -> Path | None:
        """The file, None where the place is a module."""
        return Path(self.place) if self.place.endswith(".py") or "/" in self.place or "\\" in self.place else None

    def load(self) -> Any:
        """Import the place and return what the name stands for.

        Raises:
            SpecError: There is no such file, module or name.
            CaptureError: The user's code raises when it is imported.
        """
        module = self._module(self.place) if self.path is None else self._file(self.path)
        if not hasattr(module, self.name):
            raise SpecError(
                f"{self.place} has no {self.name!r}; {nearest(self.name, _public_names(module))}",
                text=str(self),
                position=len(self.place) + 1,
            )
        return getattr(module, self.name)

    def _module(self, name: str) -> ModuleType:
        _make_importable(Path.cwd())
        with Attempt() as attempt:
            return importlib.import_module(name)
        failure = attempt.failed()
        if isinstance(failure, ModuleNotFoundError) and failure.name and f"{name}.".startswith(f"{failure.name}."):
            raise SpecError(
                f"found no module {failure.name!r}, {WANTED}; a file's name ends in .py", text=str(self), position=0
            ) from failure
        raise CaptureError(f"importing {name} fails with {summary(failure)}") from failure

    def _file(self, path: Path) -> ModuleType:
        if not path.is_file():
            folder = path.parent
            beside = [file.name for file in folder.glob("*.py")] if folder.is_dir() else []
            raise SpecError(f"found no file {path}; {nearest(path.name, beside)}", text=str(self), position=0)
        resolved = path.resolve()
        _make_importable(resolved.parent)
        known = sys.modules.get(resolved.stem)
        if known is not None and getattr(known, "__file__", None) == str(resolved):
            return known
        return _execute(resolved, resolved.stem if known is None else f"graphopt_target_{abs(hash(resolved)):x}")


def _execute(path: Path, name: str) -> ModuleType:
    """Run a file as a module; one that raises is not kept."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path} is no Python file; {WANTED}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with Attempt() as attempt:
        spec.loader.exec_module(module)
    if attempt.failure is not None:
        del sys.modules[name]
        raise CaptureError(f"running {path} fails with {summary(attempt.failure)}") from attempt.failure
    return module


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _public_names(module: ModuleType) -> list[str]:
    """Return the names that a module defines, without what it imports."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value) and _defined_in(module, value)
    ]


def _defined_in(module: ModuleType, value: object) -> bool:
    return not callable(value) or getattr(value, "__module__", None) == module.__name__
