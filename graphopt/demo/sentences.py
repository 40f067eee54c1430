"""English sentences from the texts that Python and scikit-learn bring along."""

import ast
import functools
import random
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graphopt.demo.packages import require

_DATASETS = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
_WORDS = range(6, 41)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,;:'\"()/-]*[.!?]")


@dataclass(frozen=True)
class Sentences:
    """Sentences in two parts that share none.

    Attributes:
        train: What a model is pruned and recovered with.
        held_out: What it is measured on.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def load_sentences(train: int, held_out: int, seed: int = 0) -> Sentences:
    """Collect sentences from Python's docstrings and scikit-learn's data set descriptions, and part them at random.

    Args:
        train: Number of sentences in the first part.
        held_out: Number of sentences in the second.
        seed: Seeds the choice.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    chosen = random.Random(seed).sample(_all_sentences(), train + held_out)
    return Sentences(tuple(chosen[:train]), tuple(chosen[train:]))


def split_sentences(text: str) -> list[str]:
    """Return the plain sentences of a text: 6 to 40 words, from a capital to a full stop, without markup.

    Args:
        text: Paragraphs parted by empty lines.
    """
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    sentences = (sentence for part in paragraphs for sentence in _SENTENCE_END.split(part))
    return [sentence for sentence in sentences if _PLAIN.fullmatch(sentence) and len(sentence.split()) in _WORDS]


@functools.cache
def _all_sentences() -> tuple[str, ...]:
    return tuple(sorted({sentence for text in _texts() for sentence in split_sentences(text)}))


def _texts() -> Iterator[str]:
    datasets = require("sklearn.datasets")
    for name in _DATASETS:
        yield getattr(datasets, f"load_{name}")().DESCR
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield from _docstrings(ast.parse(path.read_bytes()))


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
