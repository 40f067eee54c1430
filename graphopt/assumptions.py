"""What a program takes for granted about the data of its inputs, and the check of that.

The code of some models asks what is in a tensor: how long a mask is, which tokens there are, whether a branch is to be
taken. A graph holds one answer. Where the answer follows from the inputs and constants alone, it can be asked again at
every call, at the cost of the few operators that lead to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphopt.errors import GraphoptError

MOST_SHOWN = 60
"""Characters of a value in a message."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What the code was told about the data when it was captured.

    Attributes:
        value: A number, or a tensor of which all rows count where it has as many rows as the example.
        per_row: How many times the batch the number is; None where it does not depend on the batch.
        line: Where the code asks: file, line and code.
    """

    value: Any
    per_row: int | None
    line: str

    def __str__(self) -> str:
        """Return the value, shortened."""
        if self.per_row is not None:
            return "the batch" if self.per_row == 1 else f"{self.per_row} times the batch"
        return _shown(self.value)

    def agrees(self, found: Any, rows: int | None) -> bool:
        """Tell whether an answer is the captured one.

        Args:
            found: A number or a tensor.
            rows: The batch; None where it is fixed.
        """
        wanted = self.value if self.per_row is None or rows is None else self.per_row * rows
        if not isinstance(wanted, torch.Tensor):
            return bool(found == wanted)
        if not isinstance(found, torch.Tensor) or found.ndim != wanted.ndim:
            return False
        if found.shape != wanted.shape:
            wanted = repeated(wanted, found.shape[0]) if found.ndim else wanted
        return found.shape == wanted.shape and torch.equal(found, wanted.to(found.device))


def repeated(value: torch.Tensor, rows: int) -> torch.Tensor:
    """Return so many rows of a tensor, from its first on again after its last.

    Args:
        value: (rows, ...); without a row it is returned as it is.
        rows: How many.
    """
    return value[torch.arange(rows, device=value.device) % len(value)] if len(value) else value


@dataclass(frozen=True, eq=False)
class Assumptions:
    """The questions that a model's code asked about its inputs' data, and the answers of the example.

    Attributes:
        questions: Takes some of the inputs and returns one number or tensor a question.
        answers: The answers that are built into the program, in the order of the questions.
        places: Places of these inputs among the flat inputs of the captured program.
        names: The names that the placeholders at these places have, in every program that is made of it.
        row: Place among these of one whose first size is the batch; None where it is fixed.
    """

    questions: fx.GraphModule
    answers: tuple[Answer, ...]
    places: tuple[int, ...]
    names: tuple[str, ...]
    row: int | None

    def notes(self) -> tuple[str, ...]:
        """Return one remark for each line of code that asks."""
        lines: dict[str, list[str]] = {}
        for answer in self.answers:
            lines.setdefault(answer.line, []).append(str(answer))
        return tuple(
            f"the inputs' data decide at {line}: this holds where that gives {_listed(values)}; programs and modules "
            "raise an error elsewhere, files of other forms ask nothing"
            for line, values in lines.items()
        )

    def check(self, leaves: Mapping[str, Any]) -> None:
        """Ask again.

        Args:
            leaves: What the program is called with, by names of placeholders; where one of `names` is missing,
                nothing is asked.

        Raises:
            GraphoptError: An answer is another one.
        """
        found = [leaves.get(name) for name in self.names]
        tensors = [leaf for leaf in found if isinstance(leaf, torch.Tensor) and not leaf.is_meta]
        if len(tensors) < len(found):
            return
        rows = None if self.row is None else tensors[self.row].shape[0]
        with torch.no_grad():
            values = self.questions(*tensors)
        for answer, value in zip(self.answers, values, strict=True):
            if not answer.agrees(value, rows):
                raise GraphoptError(
                    f"the inputs' data give {_shown(value)} at {answer.line}, and the program was captured where they "
                    f"give {answer}: the code goes on in another way; capture with inputs like these"
                )


def _listed(values: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(values))
    return ", ".join(distinct[:4]) + (f" and {len(distinct) - 4} more" if len(distinct) > 4 else "")


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    text = str(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} ..."
