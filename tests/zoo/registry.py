"""Families of the libraries' registries beside the hand-shrunk entries: built by general rules, or named with a reason.

A new release of a library brings its new families in here without a line of ours.
"""

import functools
import warnings
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

import torch
from zoo.attempt import Attempt
from zoo.catalogue import Built, Entry, entry

REGISTRIES = ("torchvision", "timm", "transformers", "diffusers")
"""Libraries with a registry, each described by a module ``registry_<library>``."""

SMALL, LARGEST = 6_000_000, 60_000_000
"""Parameters that an attempt may have; more than small ones only where no small one runs."""


class NotBuiltError(Exception):
    """No general rule made a small model of a family that runs; the message is the reason."""


def families(library: str) -> tuple[str, ...]:
    """Every family that a library's registry holds."""
    return tuple(_registry(library).families())


def covered(library: str) -> frozenset[str]:
    """The families that have hand-shrunk entries."""
    return frozenset(_registry(library).covered())


def entries(library: str) -> tuple[Entry, ...]:
    """An entry for each family without hand-shrunk one; its ``build`` may raise :class:`NotBuiltError`.

    Nothing is built before ``build`` is called.
    """
    known = covered(library)
    return tuple(
        Entry(f"auto:{family}", library, functools.partial(build, library, family))
        for family in families(library)
        if family not in known
    )


def build(library: str, family: str) -> Built:
    """Make the first attempt at a family that runs and is small enough.

    Raises:
        NotBuiltError: None is, and why each was not.
    """
    made = _first(library, family)
    if isinstance(made, str):
        raise NotBuiltError(made)
    return entry(family, library, made.model, made.inputs).build()


def unbuilt(library: str) -> dict[str, str]:
    """The families that no rule could build, with the reason. Tries all of them, which takes minutes."""
    reasons = {e.name.removeprefix("auto:"): _first(library, e.name.removeprefix("auto:")) for e in entries(library)}
    return {family: reason for family, reason in reasons.items() if isinstance(reason, str)}


def _registry(library: str) -> ModuleType:
    return import_module(f"zoo.registry_{library}")


@functools.cache
def _first(library: str, family: str) -> Attempt | str:
    """What :func:`first` says of the attempts at a family."""
    try:
        attempts = list(_registry(library).attempts(family))
    except Exception as error:  # whatever a stranger's constructor raises is a reason, not a failure of the zoo
        return _reason(error)
    return first(attempts)


def first(attempts: Iterable[Attempt]) -> Attempt | str:
    """The first small attempt that works, else the smallest that does, or why none does.

    An attempt that follows from what a run complained about comes after all others.
    """
    waiting = list(attempts)
    reasons: list[tuple[int, str]] = []
    large: list[tuple[int, int]] = []
    for index, attempt in enumerate(waiting):  # grows while it is walked
        size, stage, reason = _try(attempt, SMALL)
        if not reason:
            return attempt
        reasons.append((stage, reason))
        mended = attempt.mended(reason)
        if mended is not None:
            waiting.append(mended)
        if size > SMALL:
            large.append((size, index))
    for _, index in sorted(large):
        _, stage, reason = _try(waiting[index], LARGEST)
        if not reason:
            return waiting[index]
        reasons.append((stage, reason))
    return max(reasons, key=lambda found: found[0])[1] if reasons else "nothing to try"


def _try(attempt: Attempt, most: int) -> tuple[int, int, str]:
    """Parameters of an attempt, how far it comes, and what stops it; an empty reason if nothing does."""
    size = stage = 0
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
            warnings.simplefilter("ignore")
            size = attempt.size()
            if size > most:
                return size, stage, f"{size / 1e6:.0f} M parameters; at most {most / 1e6:.0f} M are small enough"
            stage = 1
            model = attempt.model().eval()
            args, kwargs = attempt.inputs()
            stage = 2
            model(*args, **kwargs)
    except Exception as error:  # as above
        return size, stage, _reason(error)
    return size, 3, ""


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
