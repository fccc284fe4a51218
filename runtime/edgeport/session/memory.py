"""Memory of this process, in bytes."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["peak_rss", "rss"]


def rss() -> int | None:
    """Resident memory now; None where the system does not tell (macOS and Windows, without further packages)."""
    return _status("VmRSS")


def peak_rss() -> int | None:
    """The most resident memory so far; None on Windows."""
    if sys.platform == "win32":
        return None
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
