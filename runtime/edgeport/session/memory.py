"""Memory of this process, in bytes."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["peak_rss", "rss"]

# Linux samples its high-water mark with counters that lag behind, so that it can lie below what was read from VmRSS.
_highest_read = 0


def rss() -> int | None:
    """Resident memory now; None where the system does not tell (macOS and Windows, without further packages)."""
    global _highest_read
    now = _status("VmRSS")
    _highest_read = max(_highest_read, now or 0)
    return now


def peak_rss() -> int | None:
    """The most resident memory so far; None on Windows."""
    if sys.platform == "win32":
        return None
    peak = _status("VmHWM")
    if peak is not None:
        return max(peak, _highest_read)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
