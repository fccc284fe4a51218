"""Energy of the processor packages, where Linux tells it: RAPL, under /sys/class/powercap, often to root alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["read_joules", "used_joules"]

_ROOT = Path("/sys/class/powercap")


def read_joules(root: Path = _ROOT) -> dict[str, tuple[float, float]]:
    """By package the counter now and where it wraps around, in joules; empty where there is none to read."""
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


def used_joules(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]], runs: int
) -> float | None:
    """Joules of each of ``runs`` between two readings, over all packages; None where nothing was read."""
    if not before or before.keys() != after.keys():
        return None
    used = (a - before[zone][0] + (limit if a < before[zone][0] else 0.0) for zone, (a, limit) in after.items())
    return sum(used) / runs
