"""``edgeport bench suite.toml``: benchmarks that are repeated, as data.

[defaults]                     # for every run
seconds = 2

[[run]]
name = "short"                 # what its result is called
model = "minilm"               # as on the command line; paths are relative to the file
against = "openvino-int8"
length = [16, 128]
threads = [1, 2]               # one result for each: short-1, short-2
provider = ["cpu", "cuda,cpu"] # beside each other in the same result
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError

from edgeport_bench.bench import BenchOptions

__all__ = ["SuiteRun", "read_suite"]


@dataclass(frozen=True)
class SuiteRun:
    """One result of a suite."""

    name: str
    model: str
    options: BenchOptions


def read_suite(path: Path) -> list[SuiteRun]:
    """The runs of a suite, in order.

    Raises:
        UsageError: it cannot be read, or a key or a value is none of those above.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UsageError(f"{str(path)!r} is no suite ({e}): see `edgeport bench --help`.") from e
    tables = found.get("run")
    if not isinstance(tables, list) or set(found) - {"run", "defaults"}:
        raise UsageError(f"{str(path)!r} has {', '.join(found) or 'nothing'} in it: it takes [defaults] and [[run]].")
    runs = [run for table in tables for run in _runs({**found.get("defaults", {}), **table}, path)]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UsageError(f"the runs of {str(path)!r} are called {', '.join(names)}: give each a name of its own.")
    return runs


def _runs(table: Mapping[str, Any], path: Path) -> list[SuiteRun]:
    """A run for each number of threads."""
    name, model = table.get("name"), table.get("model")
    if not isinstance(name, str) or not isinstance(model, str):
        raise UsageError(f"a run of {str(path)!r} has no name or no model: both are needed.")
    threads = _list(table.get("threads", []))
    try:
        return [
            SuiteRun(
                f"{name}-{count}" if len(threads) > 1 else name,
                _local(path, model),
                _options({**table, "threads": count}, path),
            )
            for count in threads or [None]
        ]
    except (TypeError, ValueError) as e:
        raise UsageError(f"the run {name!r} of {str(path)!r} is wrong: {e}") from e


def _options(table: Mapping[str, Any], path: Path) -> BenchOptions:
    fields = {}
    for key, value in table.items():
        if key in ("name", "model") or value is None:
            continue
        if key not in _KEYS:
            raise UsageError(f"there is no key {key!r}: choose from name, model, {', '.join(_KEYS)}.")
        field, convert = _KEYS[key]
        fields[field] = convert(path, value)
    return BenchOptions(**fields)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _local(path: Path, name: str) -> str:
    """A path beside the suite where there is one; a hub id otherwise."""
    beside = path.parent / name
    return str(beside) if beside.exists() else name


def _numbers(path: Path, value: Any) -> tuple[int, ...]:
    numbers = tuple(_list(value))
    if not all(type(number) is int and number > 0 for number in numbers):
        raise UsageError(f"{value!r} is no list of positive numbers.")
    return numbers


_KEYS: Mapping[str, tuple[str, Callable[[Path, Any], Any]]] = {
    "variant": ("variants", lambda path, value: tuple(map(str, _list(value)))),
    "provider": ("providers", lambda path, value: tuple(map(str, _list(value)))),
    "threads": ("threads", lambda path, value: _numbers(path, value)[0]),
    "batch": ("batches", _numbers),
    "length": ("lengths", _numbers),
    "new_tokens": ("new_tokens", lambda path, value: _numbers(path, value)[0]),
    "seconds": ("seconds", lambda path, value: float(value)),
    "against": ("against", lambda path, value: ",".join(map(str, _list(value)))),
    "original": ("original", lambda path, value: _local(path, str(value))),
    "texts": ("texts", lambda path, value: path.parent / str(value)),
    "eval": ("evaluation", lambda path, value: path.parent / str(value)),
    "columns": ("columns", lambda path, value: tuple(dict(value).items())),
    "axis": ("axes", lambda path, value: tuple((str(k), int(v)) for k, v in dict(value).items())),
    "input": ("inputs", lambda path, value: tuple((str(k), float(v)) for k, v in dict(value).items())),
    "cold": ("cold", lambda path, value: bool(value)),
}
"""Key of a run to the option's field, and how the value becomes one."""
