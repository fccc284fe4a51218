"""A process that holds one subject and measures it on request: ``python worker.py MEMORY``.

Libraries that live in one process spin on each other's processors, so each subject gets a process of its own. Between
requests it is blocked on its input, and its thread pools sleep. One JSON object a line:

    request                                        reply (or {"error": sentence, "type": class})
    {"op": "import", "module": m}                  {"import_ms": t, "rss": bytes}
    {"op": "prepare", "options": {...}}            {"prepare_ms": t}               writes what ``load`` opens
    {"op": "load", "options": {...}}               {"load_ms": t, "rss": bytes, "about": {...}}
    {"op": "feed", "tensors": file.npz | null,     {}                              texts instead of tensors, or
     "texts": [...] | null, "new_tokens": n}                       0: a run reads; else it writes n tokens after them
    {"op": "run", "times": n, "untimed": m}        {"ms": [[t, ...], ...],         by run: one time, or one a token
                                                    "cpu_ms": [t, ...]}            of all its threads, a run
    {"op": "outputs", "path": file.npz}            {"values": {name: per row}}     writes them there
    {"op": "tokens", "given": [[id, ...]] | null}  {"tokens": [[id, ...]]}  written, or preferred along those given
    {"op": "memory"}                               {"rss": bytes, "peak_rss": bytes}

The end of the input ends it. It needs numpy and the standard library alone, so that a peer's environment can run it as
well, without anything of edgeport's own. MEMORY is the path of ``edgeport.session.memory``.
"""

from __future__ import annotations

import importlib
import importlib.util
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
import numpy.typing as npt

__all__ = ["Server", "main"]

Array = npt.NDArray[Any]

_MOST_VALUES = 2**16
"""Of each row and output that are compared; more of them are thinned out evenly."""
_UNTIMED_TOKENS = 2
"""What a run that does not count writes: enough to read the prompt, take a step, and have threads and caches awake."""


class Server:
    """Answers requests; keeps the subject and what to feed it."""

    def __init__(self, memory: ModuleType) -> None:
        """``memory`` has ``rss()`` and ``peak_rss()``, in bytes."""
        self._memory_of_process = memory
        self._kind: ModuleType | None = None
        self._subject: Any = None
        self._feeds: dict[str, Array] = {}
        self._texts: list[str] = []
        self._new_tokens = 0
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "import": self._import,
            "prepare": self._prepare,
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
                known = type(e).__module__ == "edgeport.errors"
                sentence = str(e) if known else f"{type(e).__name__}: {_first_line(e)}"
                reply = {"error": sentence, "type": type(e).__name__ if known else None}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
        if self._subject is not None:
            self._subject.close()

    def _import(self, request: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter_ns()
        self._kind = importlib.import_module(request["module"])
        return {"import_ms": _since(start), "rss": self._memory_of_process.rss()}

    def _prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter_ns()
        self._imported().prepare(request["options"])
        return {"prepare_ms": _since(start)}

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        kind = self._imported()
        start = time.perf_counter_ns()
        self._subject = kind.open_subject(request["options"])
        taken = _since(start)
        return {"load_ms": taken, "rss": self._memory_of_process.rss(), "about": self._subject.describe()}

    def _feed(self, request: dict[str, Any]) -> dict[str, Any]:
        self._feeds, self._texts = {}, request["texts"] or []
        if request["tensors"]:
            with np.load(request["tensors"], allow_pickle=False) as arrays:
                self._feeds = dict(arrays)
        self._new_tokens = request["new_tokens"]
        return {}

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        run = self._runner(min(self._new_tokens, _UNTIMED_TOKENS))
        for _ in range(request["untimed"]):
            _timed(run)
        run = self._runner(self._new_tokens)
        found = [_timed(run) for _ in range(request["times"])]
        return {"ms": [ms for ms, _ in found], "cpu_ms": [cpu for _, cpu in found]}

    def _outputs(self, request: dict[str, Any]) -> dict[str, Any]:
        subject = self._ready()
        found = subject.encode(self._texts) if self._texts else subject.run(self._feeds)
        rows = {name: array.reshape(len(array), -1) for name, array in found.items()}
        thinned: dict[str, Any] = {name: r[:, :: -(-r.shape[1] // _MOST_VALUES)] for name, r in rows.items()}
        np.savez(Path(request["path"]), **thinned)
        return {"values": {name: r.shape[1] for name, r in rows.items()}}

    def _tokens(self, request: dict[str, Any]) -> dict[str, Any]:
        subject, prompts, given = self._ready(), self._feeds["input_ids"], request["given"]
        if given is None:
            return {"tokens": subject.write(prompts, self._new_tokens, lambda: None).tolist()}
        return {"tokens": subject.follow(prompts, np.array(given, dtype=np.int64)).tolist()}

    def _memory(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"rss": self._memory_of_process.rss(), "peak_rss": self._memory_of_process.peak_rss()}

    def _runner(self, new_tokens: int) -> Callable[[Callable[[], None]], None]:
        """What a run does; it calls its argument whenever something is done that is timed."""
        subject = self._ready()
        if new_tokens:
            prompts = self._feeds["input_ids"]
            return lambda mark: subject.write(prompts, new_tokens, mark)
        if self._texts:
            return lambda mark: _read(subject.encode, self._texts, mark)
        return lambda mark: _read(subject.run, self._feeds, mark)

    def _imported(self) -> ModuleType:
        if self._kind is None:
            raise RuntimeError("prepare or load before import")
        return self._kind

    def _ready(self) -> Any:
        if self._subject is None or not (self._feeds or self._texts):
            raise RuntimeError("run before load and feed")
        return self._subject


def _read(run: Callable[[Any], Any], what: Any, mark: Callable[[], None]) -> None:
    run(what)
    mark()


def _timed(run: Callable[[Callable[[], None]], None]) -> tuple[list[float], float]:
    """Milliseconds of a run, one for each mark, and those of all the processors that it used."""
    cpu = time.process_time_ns()
    marks = [time.perf_counter_ns()]
    run(lambda: marks.append(time.perf_counter_ns()))
    used = time.process_time_ns() - cpu
    return [(after - before) / 1e6 for before, after in pairwise(marks)], used / 1e6


def _since(start: int) -> float:
    return (time.perf_counter_ns() - start) / 1e6


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _load_file(name: str, path: Path, folders: list[str] | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main(memory: str) -> int:
    """Serve the parent on stdin and stdout until it closes them; ``memory`` is a file with ``rss`` and ``peak_rss``."""
    # What a library prints goes to stderr: it must not stand between the replies.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        here = Path(__file__).parent
        _load_file("edgeport_bench", here / "__init__.py", [str(here)])  # this package alone, and not its neighbours
        Server(_load_file("memory_of_process", Path(memory))).serve(sys.stdin, replies)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
