"""Where candidates are made: in this process, in several of this machine, or on a Ray cluster.

A helper makes for itself what the search began with, from the model and the options, and finds it in its memory the
next time. Candidates lie in the work folder, so the machines of a cluster share that folder, the model and the data.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from edgeport.errors import MissingExtraError, UsageError
from transformers import PreTrainedModel

from edgeport_export.compression.candidate import Candidate
from edgeport_export.compression.evaluate import Evaluator
from edgeport_export.compression.options import LOCAL, CompressOptions
from edgeport_export.compression.setup import set_up
from edgeport_export.compression.space import Choice
from edgeport_export.messages import first_line
from edgeport_export.progress import Progress
from edgeport_export.recipe import Recipe

__all__ = ["processes"]

_SECONDS_TO_ANSWER = 10.0
Evaluate = Callable[[int, Choice], Candidate]


@dataclass(frozen=True)
class _Start:
    """What a helper begins with."""

    model: str
    out: Path
    options: CompressOptions
    recipe: Recipe


@contextmanager
def processes(
    model: str | Path | PreTrainedModel, out: Path, options: CompressOptions, recipe: Recipe, here: Evaluate
) -> Iterator[tuple[Evaluate, Executor | None]]:
    """What makes a candidate, and the pool that it is to run in; ``here`` and None where one job is enough.

    Raises:
        UsageError: the model is in memory, where another process cannot reach it, or there is no such cluster.
    """
    if options.jobs == 1 and options.ray is None:
        yield here, None
        return
    if isinstance(model, PreTrainedModel):
        which = "--ray" if options.ray is not None else f"--jobs {options.jobs}"
        raise UsageError(f"{which} needs a model that other processes can load: give its folder or hub id.")
    path = str(Path(model).resolve()) if Path(model).exists() else str(model)
    evaluate = partial(_evaluate, _Start(path, out.resolve(), options, recipe))
    pool = _Ray(options.ray) if options.ray is not None else ProcessPoolExecutor(options.jobs, get_context("spawn"))
    with pool:
        yield evaluate, pool


_helper: tuple[_Start, Evaluator] | None = None
"""Of a process that helps."""


def _evaluate(start: _Start, number: int, choice: Choice) -> Candidate:
    global _helper
    if _helper is None or _helper[0] != start:
        setup = set_up(start.model, start.out, start.options, start.recipe, Progress(show=False))
        _helper = start, setup.evaluator
    return _helper[1].evaluate(number, choice)


def _call(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Ray takes functions, and this passes for all that can be called."""
    return fn(*args, **kwargs)


def _reach(address: str) -> None:
    """Find out at once: Ray itself tries an address that nobody answers for minutes.

    Raises:
        UsageError: nobody answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in (LOCAL, "auto"):
        return
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, ValueError) as e:
        raise UsageError(f"--ray {address!r} does not answer ({first_line(e)}): give host:port, or auto.") from e


class _Ray(Executor):
    """Tasks of a Ray cluster as futures."""

    def __init__(self, address: str) -> None:
        """Connect to ``address``, or begin a cluster of this machine alone.

        Raises:
            UsageError: Ray is not installed, or there is no cluster at that address.
        """
        try:
            import ray
        except ImportError as e:
            raise MissingExtraError("--ray", "ray") from e
        _reach(address)
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns that it will change
        try:
            ray.init(address=None if address == LOCAL else address, include_dashboard=False, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as e:
            raise UsageError(f"--ray {address!r} does not answer ({first_line(e)}): give host:port, or auto.") from e
        self._ray = ray

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = self._ray.remote(_call).remote(fn, *args, **kwargs).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ray.shutdown()
