"""Put one folder in another's place without a moment in which neither stands there."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import tempfile
from pathlib import Path

__all__ = ["swap_folders"]

_CWD = -100  # AT_FDCWD: paths as they are
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux's renameat2, RENAME_SWAP of macOS's renamex_np
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def swap_folders(new: Path, target: Path) -> None:
    """Exchange ``new`` and ``target``, which lie in the same folder and both exist.

    In one step where the system and its file system can (Linux, macOS). Elsewhere in three, and a crash between the
    first and the second leaves the old folder whole beside the target, in a hidden folder that ends in ``.old``.

    Raises:
        OSError: it cannot be done; both are where they were.
    """
    if _exchange(new, target):
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    old = aside / "bundle"
    try:
        target.rename(old)
        try:
            new.rename(target)
        except OSError:
            old.rename(target)
            raise
        old.rename(new)
    finally:
        aside.rmdir()


def _exchange(a: Path, b: Path) -> bool:
    """False where the system cannot exchange two names in one step."""
    if sys.platform not in ("linux", "darwin"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(a), os.fsencode(b)
    try:
        if sys.platform == "linux":
            failed = libc.renameat2(_CWD, names[0], _CWD, names[1], _EXCHANGE)
        else:
            failed = libc.renamex_np(names[0], names[1], _EXCHANGE)
    except AttributeError:  # a C library that is older than the call
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(b))
