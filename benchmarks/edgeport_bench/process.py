"""The parent's side of a worker: starts the process, asks, and turns its errors into exceptions. Measures nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from edgeport import errors
from edgeport.errors import EdgeportError, UsageError

from edgeport_bench.inputs import Feeds
from edgeport_bench.subjects import SubjectSpec

__all__ = ["Worker"]

_GRACE_SECONDS = 5.0


class Worker:
    """A subject in a process of its own. A context manager: leaving it ends the process."""

    def __init__(self, spec: SubjectSpec) -> None:
        self.spec = spec
        self.started = time.perf_counter()
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgeport_bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            encoding="utf-8",
        )

    def load(self) -> dict[str, Any]:
        """Import the subject's libraries and open it: ``import_ms``, ``load_ms``, ``rss``, ``about``."""
        imported = self._ask({"op": "import", "kind": self.spec.kind})
        loaded = self._ask({"op": "load", "options": dict(self.spec.options)})
        return {**loaded, "import_ms": imported["import_ms"]}

    def feed(self, feeds: Feeds, new_tokens: int = 0) -> None:
        """The tensors for the runs that follow, and how many tokens each of these writes; 0 only reads."""
        listed = {name: array.tolist() for name, array in feeds.items()}
        self._ask({"op": "feed", "feeds": listed, "new_tokens": new_tokens})

    def run(self, times: int, *, untimed: int = 0) -> list[list[float]]:
        """Milliseconds of each of ``times`` runs, after ``untimed`` ones: one number, or one for each written token."""
        samples: list[list[float]] = self._ask({"op": "run", "times": times, "untimed": untimed})["ms"]
        return samples

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """The outputs for the tensors fed last: name to (batch, values), thinned out evenly where there are many."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "outputs.npz"
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


def _as_exception(sentence: str, name: str | None, subject: str) -> EdgeportError:
    cls = getattr(errors, name or "", None)
    if cls is errors.MissingExtraError:  # which makes its own sentence
        return UsageError(sentence)
    if isinstance(cls, type) and issubclass(cls, EdgeportError):
        return cls(sentence)
    return EdgeportError(f"{subject} does not run here ({sentence.rstrip('.')}).")
