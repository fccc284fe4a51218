"""Energy, where the machine tells it: of processor packages by RAPL (Linux, often to root alone), of GPUs by NVML."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

__all__ = ["read_joules", "used_joules"]

_ROOT = Path("/sys/class/powercap")


def read_joules(root: Path = _ROOT) -> dict[str, tuple[float, float]]:
    """By package and GPU the counter now and where it wraps around, in joules; empty where there is none to read."""
    return {**_packages(root), **_gpus()}


def used_joules(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]], runs: int
) -> float | None:
    """Joules of each of ``runs`` between two readings, over all of them; None where nothing was read."""
    if not before or before.keys() != after.keys():
        return None
    used = (a - before[zone][0] + (limit if a < before[zone][0] else 0.0) for zone, (a, limit) in after.items())
    return sum(used) / runs


def _packages(root: Path) -> dict[str, tuple[float, float]]:
    found = {}
    for zone in sorted(root.glob("*-rapl:[0-9]*")):
        if zone.name.count(":") > 1:  # a part of a package, which counts there
            continue
        try:
            values = [int((zone / name).read_text(encoding="ascii")) for name in ("energy_uj", "max_energy_range_uj")]
        except (OSError, ValueError):
            continue
        found[zone.name] = (values[0] / 1e6, values[1] / 1e6)
    return found


def _gpus() -> dict[str, tuple[float, float]]:
    nvml = _nvml()
    if nvml is None:
        return {}
    found = {}
    for number in range(nvml.nvmlDeviceGetCount()):
        try:
            millijoules = nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByIndex(number))
        except nvml.NVMLError:  # older than Volta
            continue
        found[f"gpu:{number}"] = (millijoules / 1e3, inf)
    return found


@cache
def _nvml() -> Any:
    """NVIDIA's library, open; None without its package or without a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
