"""Resident memory of this process, as the kernel counts it."""

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def current_bytes() -> int:
    """Return the bytes that are resident now; the highest so far where the system does not tell."""
    if not _STATUS.exists():
        return peak_bytes()
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return peak_bytes()


def peak_bytes() -> int:
    """Return the highest number of resident bytes since the start, or since :func:`restart_peak`."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def restart_peak() -> int:
    """Let the highest number of resident bytes start anew at what is resident now, and return it.

    Where the system does not allow that, the highest number so far is returned: a later peak below it goes unseen.
    """
    if _CLEAR.exists():
        _CLEAR.write_text("5")
    return peak_bytes()
