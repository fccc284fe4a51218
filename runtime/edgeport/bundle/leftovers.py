"""Hidden folders that a killed export left beside its target: find those that nobody writes any more, and remove them.

A living writer holds a lock on its folder, which the system releases however the process ends.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["hold", "remove_leftovers"]


def hold(folder: Path) -> int | None:
    """Lock ``folder`` against removal; returns the handle to close, or None where another holds it or none can."""
    if os.name != "posix":  # Windows opens no folders
        return None
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def remove_leftovers(target: Path) -> None:
    """Remove the unfinished folders of earlier writers of ``target``; those of living ones stay."""
    for folder in target.parent.glob(f".{_literal(target.name)}.*.partial"):
        handle = hold(folder)
        if handle is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)


def _literal(name: str) -> str:
    """``name`` for a pattern, with nothing in it that a pattern would read otherwise."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
