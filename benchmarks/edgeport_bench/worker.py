"""A process that holds one subject and measures it on request: ``python -m edgeport_bench.worker``.

Libraries that live in one process spin on each other's processors, so each subject gets a process of its own. Between
requests it is blocked on its input, and its thread pools sleep. One JSON object a line:

    request                                        reply (or {"error": sentence, "type": class})
    {"op": "import", "kind": k}                    {"import_ms": t, "rss": bytes}
    {"op": "load", "options": {...}}               {"load_ms": t, "rss": bytes, "about": {...}}
    {"op": "feed", "feeds": {name: [[id, ...]]},   {}
     "new_tokens": n}                                     0: a run reads them; else it writes n tokens after them
    {"op": "run", "times": n, "untimed": m}        {"ms": [[t, ...], ...]}  a list a run: one time, or one a token
    {"op": "outputs", "path": file.npz}            {"values": {name: per row}}     writes them there
    {"op": "tokens", "given": [[id, ...]] | null}  {"tokens": [[id, ...]]}  written, or preferred along those given
    {"op": "memory"}                               {"rss": bytes, "peak_rss": bytes}

The end of the input ends it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import numpy as np
from edgeport.errors import EdgeportError
from edgeport.session.memory import peak_rss, rss

from edgeport_bench.subjects import Array, import_kind

__all__ = ["Server", "main"]

_MOST_VALUES = 2**16
"""Of each row and output that are compared; more of them are thinned out evenly."""
_UNTIMED_TOKENS = 2
"""What a run that does not count writes: enough to read the prompt, take a step, and have threads and caches awake."""


class Server:
    """Answers requests; keeps the subject and the tensors to feed it."""

    def __init__(self) -> None:
        self._kind: ModuleType | None = None
        self._subject: Any = None
        self._feeds: dict[str, Array] = {}
        self._new_tokens = 0
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "import": self._import,
            "load": self._load,
            "feed": self._feed,
            "run": self._run,
            "outputs": self._outputs,
            "tokens": self._tokens,
            "memory": self._memory,
        }

    def serve(self, requests: Iterable[str], replies: TextIO) -> None:
        """Answer each line of ``requests`` with one line."""
        for line in requests:
            try:
                request = json.loads(line)
                reply = self._operations[request["op"]](request)
            except Exception as e:  # whatever a library raises, the parent has to hear of it
                known = isinstance(e, EdgeportError)
                sentence = str(e) if known else f"{type(e).__name__}: {(str(e).splitlines() or [''])[0][:300]}"
                reply = {"error": sentence, "type": type(e).__name__ if known else None}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
        if self._subject is not None:
            self._subject.close()

    def _import(self, request: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter_ns()
        self._kind = import_kind(request["kind"])
        return {"import_ms": _since(start), "rss": rss()}

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._kind is None:
            raise RuntimeError("load before import")
        start = time.perf_counter_ns()
        self._subject = self._kind.open_subject(request["options"])
        return {"load_ms": _since(start), "rss": rss(), "about": self._subject.describe()}

    def _feed(self, request: dict[str, Any]) -> dict[str, Any]:
        self._feeds = {name: np.array(rows, dtype=np.int64) for name, rows in request["feeds"].items()}
        self._new_tokens = request["new_tokens"]
        return {}

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        subject, feeds = self._ready()
        for _ in range(request["untimed"]):
            _steps(subject, feeds, min(self._new_tokens, _UNTIMED_TOKENS))
        return {"ms": [_steps(subject, feeds, self._new_tokens) for _ in range(request["times"])]}

    def _outputs(self, request: dict[str, Any]) -> dict[str, Any]:
        subject, feeds = self._ready()
        rows = {name: array.reshape(len(array), -1) for name, array in subject.run(feeds).items()}
        thinned: dict[str, Any] = {name: r[:, :: -(-r.shape[1] // _MOST_VALUES)] for name, r in rows.items()}
        np.savez(Path(request["path"]), **thinned)
        return {"values": {name: r.shape[1] for name, r in rows.items()}}

    def _tokens(self, request: dict[str, Any]) -> dict[str, Any]:
        subject, feeds = self._ready()
        prompts, given = feeds["input_ids"], request["given"]
        if given is None:
            return {"tokens": subject.write(prompts, self._new_tokens, lambda: None).tolist()}
        return {"tokens": subject.follow(prompts, np.array(given, dtype=np.int64)).tolist()}

    def _memory(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"rss": rss(), "peak_rss": peak_rss()}

    def _ready(self) -> tuple[Any, dict[str, Array]]:
        if self._subject is None or not self._feeds:
            raise RuntimeError("run before load and feed")
        return self._subject, self._feeds


def _steps(subject: Any, feeds: dict[str, Array], new_tokens: int) -> list[float]:
    """Milliseconds of a run: of reading all, or up to each token that is written."""
    marks = [time.perf_counter_ns()]
    if new_tokens:
        subject.write(feeds["input_ids"], new_tokens, lambda: marks.append(time.perf_counter_ns()))
    else:
        subject.run(feeds)
        marks.append(time.perf_counter_ns())
    return [(after - before) / 1e6 for before, after in pairwise(marks)]


def _since(start: int) -> float:
    return (time.perf_counter_ns() - start) / 1e6


def main() -> int:
    """Serve the parent on stdin and stdout until it closes them."""
    # What a library prints goes to stderr: it must not stand between the replies.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        Server().serve(sys.stdin, replies)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
