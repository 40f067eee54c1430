"""What a device is doing, for others to read where they wait for it in vain; and the end of a device left alone."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

PERIOD_SECONDS = 0.2


class Watch:
    """A thread that looks after one device.

    What the device does is told on the board only where it has not changed for a quarter of the timeout, so a run
    without trouble has no traffic of it. Where the process that started this one is gone, this one ends too.

    Args:
        rank: number of the device.
        timeout_seconds: how long others wait at most.
        tell: writes what the device does and since when on the board; None where nobody reads it.
        parent: process to look after; None where this one may outlive it.
    """

    def __init__(
        self,
        rank: int,
        timeout_seconds: float,
        tell: Callable[[str, int | None], None] | None = None,
        parent: int | None = None,
    ) -> None:
        self.rank = rank
        self._patience = timeout_seconds / 4
        self._tell = tell
        self._parent = parent
        self._now: tuple[str, int | None, float] = ("starts", None, time.monotonic())
        self._told: tuple[str, int | None, float] | None = None
        self._stopped = threading.Event()
        self._beats: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._look, name=f"graphopt-watch-{rank}", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End looking."""
        self._stopped.set()

    def doing(self, what: str, peer: int | None = None) -> None:
        """Note what the device does, and the device that it waits for."""
        self._now = (what, peer, time.monotonic())

    def beat(self, action: Callable[[], None]) -> None:
        """Do something at each look."""
        self._beats.append(action)

    def _look(self) -> None:
        while not self._stopped.wait(PERIOD_SECONDS):
            if self._parent is not None and os.getppid() != self._parent:
                sys.stderr.write(f"error: rank {self.rank} ends: the process that started it is gone\n")
                os._exit(1)
            for action in self._beats:
                action()
            now = self._now
            if self._tell is not None and now is not self._told and time.monotonic() - now[2] > self._patience:
                self._told = now
                self._tell(now[0], now[1])
