"""Environments for peers, made when they are asked for and kept in the user's cache, and what peers made of a model.

The pinned packages are data, ``requirements/NAME.txt``; another pin is another environment. A folder of the cache is
complete when its marker is there; one without it was interrupted, and is made anew.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from edgeport.errors import EdgeportError

__all__ = ["cache_folder", "environment_python", "model_key", "requirements", "reserve"]

_MARKER = ".complete"

Say = Callable[[str], None]


def cache_folder() -> Path:
    """Where environments and converted models are kept: ``edgeport/peers`` in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "edgeport" / "peers"


def requirements(name: str) -> str:
    """The pinned packages of an environment, as pip takes them."""
    return (files("edgeport_bench") / "peers" / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


def environment_python(name: str, say: Say = lambda doing: None) -> Path:
    """The interpreter of the environment ``name``, made now if there is none.

    Raises:
        EdgeportError: it cannot be made.
    """
    pinned = requirements(name)
    key = _digest(pinned, platform.python_version(), platform.machine())
    folder = cache_folder() / "environments" / f"{name}-{key}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (folder / _MARKER).is_file():
        return python
    say(f"installing {name}, once (some minutes)")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    listed = folder / "requirements.txt"
    listed.write_text(pinned, encoding="utf-8")
    _run([sys.executable, "-m", "venv", str(folder)], name)
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(listed)], name)
    (folder / _MARKER).touch()
    return python


def model_key(model: Path, *others: str) -> str:
    """A name for what is made of the model in a folder: by its files' names, sizes and times, and by ``others``."""
    stats = [(p.relative_to(model).as_posix(), p.stat()) for p in sorted(model.rglob("*")) if p.is_file()]
    return _digest(str(model.resolve()), *(f"{n} {s.st_size} {s.st_mtime_ns}" for n, s in stats), *others)


def reserve(name: str, key: str, fill: Callable[[Path], None]) -> Path:
    """The folder of the cache for ``name`` and ``key``, filled by ``fill`` unless it was before."""
    folder = cache_folder() / "models" / f"{name}-{key}"
    if not (folder / _MARKER).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        fill(folder)
        (folder / _MARKER).touch()
    return folder


def _run(command: list[str], name: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise EdgeportError(f"the packages of {name} cannot be installed ({(lines or ['no message'])[-1][:200]}).")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
