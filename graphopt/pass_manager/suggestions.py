"""What to try instead of a name that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the names spelt most like one, or all of them where none is.

    Args:
        name: What was written.
        known: What could have been.
    """
    names = sorted(known)
    if not names:
        return "there are none to choose from"
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known are {', '.join(names)}"
