"""A machine as a few lines of TOML, which are measured on it or come from its data sheet."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError

from edgeport_export.profile.roofline import Machine, Roofline

__all__ = ["describe", "read_description"]

_FIELDS: Mapping[str, tuple[float, str]] = {
    "fp32_gflops": (
        1e9,
        "10^9 floating-point operations a second in large products, all threads together",
    ),
    "int8_gops": (1e9, "the same of products of bytes"),
    "bandwidth_gb_s": (1e9, "read from memory, 10^9 bytes a second, all threads together"),
    "operator_us": (1e-6, "microseconds that an operator takes which has nothing to do"),
}
"""What a description has to say: its unit, and what it means."""


def describe(name: str, machine: Machine) -> str:
    """The file that ``read_description`` reads."""
    roofline = machine.roofline
    values = (roofline.fp32, roofline.int8, roofline.bandwidth, machine.operator)
    lines = [
        f"{field} = {value / unit:.4g}  # {meaning}"
        for (field, (unit, meaning)), value in zip(_FIELDS.items(), values, strict=True)
    ]
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return "\n".join([f'name = "{quoted}"', f"threads = {machine.threads}", *lines]) + "\n"


def read_description(path: Path) -> tuple[str, Machine]:
    """A machine and what it is called; its file's name where it is called nothing.

    Raises:
        UsageError: the file cannot be read, or says too little, too much or something impossible.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageError(f"{str(path)!r} cannot be read ({e}): give what `edgeport bench machine` wrote there.") from e
    needed = ("threads", *_FIELDS)
    for key in needed:
        _check(path, key, data)
    if unknown := [key for key in data if key not in ("name", *needed)]:
        raise UsageError(f"{str(path)!r} says {unknown[0]!r}, which nothing reads: leave it out.")
    if not isinstance(data["threads"], int):
        raise UsageError(f"{str(path)!r} says threads = {data['threads']!r}: give a whole number.")
    fp32, int8, bandwidth, operator = (data[key] * unit for key, (unit, _) in _FIELDS.items())
    return str(data.get("name", path.stem)), Machine(data["threads"], Roofline(fp32, int8, bandwidth), operator)


def _check(path: Path, key: str, data: Mapping[str, Any]) -> None:
    if key not in data:
        raise UsageError(f"{str(path)!r} does not say {key}: `edgeport bench machine` measures it.")
    value = data[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"{str(path)!r} says {key} = {value!r}: give a number above 0.")
