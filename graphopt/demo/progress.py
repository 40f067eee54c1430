"""Progress bars that show on a terminal only."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def shown(items: Sequence[Item], description: str) -> Iterable[Item]:
    """Go through items behind a progress bar on stderr, or silently where that is no terminal.

    Args:
        items: What to go through.
        description: Text in front of the bar.
    """
    console = Console(stderr=True)
    return track(items, description, console=console, transient=True, disable=not console.is_terminal)
