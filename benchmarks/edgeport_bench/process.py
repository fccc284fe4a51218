"""The parent's side of a worker: starts the process, asks, and turns its errors into exceptions. Measures nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from edgeport import errors
from edgeport.errors import EdgeportError, UsageError
from edgeport.session import memory

from edgeport_bench.inputs import Feeds
from edgeport_bench.subjects import KINDS, SubjectSpec

__all__ = ["Runs", "Worker"]

_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Runs:
    """Some runs, one after the other."""

    ms: list[list[float]]
    """By run: one number, or one for each written token."""
    cpu_ms: list[float]
    """By run, of all threads together."""


def _environment(spec: SubjectSpec) -> dict[str, str]:
    """This process's own; compiled modules are kept, as after an installation, or each start would compile them."""
    found = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return found if spec.python is None else {**found, "HF_HUB_OFFLINE": "1"}


class Worker:
    """A subject in a process of its own. A context manager: leaving it ends the process."""

    def __init__(self, spec: SubjectSpec) -> None:
        self.spec = spec
        self.started = time.perf_counter()
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._folder = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            _command(spec),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            env=_environment(spec),
            text=True,
            encoding="utf-8",
        )

    def load(self) -> dict[str, Any]:
        """Import the subject's libraries and open it: ``import_ms``, ``load_ms``, ``rss``, ``about``."""
        imported = self._import()
        loaded = self._ask({"op": "load", "options": dict(self.spec.options)})
        return {**loaded, "import_ms": imported["import_ms"]}

    def prepare(self, folder: Path) -> None:
        """Let the subject's kind write into ``folder`` what ``load`` opens."""
        self._import()
        self._ask({"op": "prepare", "options": {**self.spec.options, "folder": str(folder)}})

    def feed(self, feeds: Feeds | Sequence[str], new_tokens: int = 0) -> None:
        """The tensors or the texts for the runs that follow, and how many tokens each of these writes; 0 only reads."""
        request: dict[str, Any] = {"op": "feed", "tensors": None, "texts": None, "new_tokens": new_tokens}
        if isinstance(feeds, Mapping):
            path = Path(self._folder.name) / "feeds.npz"
            tensors: dict[str, Any] = dict(feeds)
            np.savez(path, **tensors)
            self._ask({**request, "tensors": str(path)})
        else:
            self._ask({**request, "texts": list(feeds)})

    def run(self, times: int, *, untimed: int = 0) -> Runs:
        """Time ``times`` runs, after ``untimed`` ones."""
        found = self._ask({"op": "run", "times": times, "untimed": untimed})
        return Runs(found["ms"], found["cpu_ms"])

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """The outputs for what was fed last: name to (batch, values), thinned out evenly where there are many."""
        path = Path(self._folder.name) / "outputs.npz"
        self._ask({"op": "outputs", "path": str(path)})
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    def tokens(self, given: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
        """What is written after the tensors fed last, (batch, new tokens), or would be along the tokens ``given``."""
        listed = None if given is None else given.tolist()
        return np.array(self._ask({"op": "tokens", "given": listed})["tokens"], dtype=np.int64)

    def memory(self) -> dict[str, int | None]:
        """Bytes in memory: ``rss`` now, ``peak_rss`` since the start; None where the system does not tell."""
        return self._ask({"op": "memory"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(_GRACE_SECONDS if error is None else 0)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._messages.close()
        self._folder.cleanup()

    def _import(self) -> dict[str, Any]:
        return self._ask({"op": "import", "module": KINDS[self.spec.kind]})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise EdgeportError(f"the process that measured {self.spec.name} ended by itself{self._last_words()}.")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise _as_exception(reply["error"], reply["type"], self.spec.name)
        return reply

    def _last_words(self) -> str:
        """The last line that it wrote to stderr, if any, and its exit status."""
        status = self._process.wait()
        self._messages.seek(0)
        lines = self._messages.read().decode("utf-8", "replace").strip().splitlines()
        return f" (exit status {status}{': ' + lines[-1][:200] if lines else ''})"


def _command(spec: SubjectSpec) -> list[str]:
    """How to start the worker: as a file, without its folder among those of modules; a peer's interpreter apart from
    all that is installed here."""
    python = [sys.executable, "-P"] if spec.python is None else [spec.python, "-I"]
    return [*python, str(Path(__file__).with_name("worker.py")), str(Path(memory.__file__))]


def _as_exception(sentence: str, name: str | None, subject: str) -> EdgeportError:
    cls = getattr(errors, name or "", None)
    if cls is errors.MissingExtraError:  # which makes its own sentence
        return UsageError(sentence)
    if isinstance(cls, type) and issubclass(cls, EdgeportError):
        return cls(sentence)
    return EdgeportError(f"{subject} does not run here ({sentence.rstrip('.')}).")
