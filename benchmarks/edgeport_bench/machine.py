"""What the figures were taken on: processor, memory, versions, and whether the machine was busy with something else."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from edgeport.session import processor_name, usable_threads
from edgeport_export.versions import installed_versions

from edgeport_bench.measure import Rounds, round_spread

__all__ = ["Clock", "Machine", "describe_machine", "load_warning", "noise_warnings", "read_clock"]

_PACKAGES = ("edgeport", "edgeport-kernels", "onnxruntime", "tokenizers", "numpy", "torch", "transformers")
_BUSY = 0.3
"""Share of the processors that others may use before a warning is due."""
_LOOK_SECONDS = 0.5
_STOLEN, _SLOWER, _SPREAD = 0.02, 0.1, 0.2
"""Likewise of stolen time, of the loss of clock rate, and of how far the medians of rounds lie apart."""


@dataclass(frozen=True)
class Machine:
    """Where and with what a benchmark ran."""

    processor: str
    cores: int
    """Physical ones; the logical ones where the system does not tell."""
    usable_threads: int
    """What this process may use: affinity and quotas counted."""
    memory_bytes: int
    system: str
    load_average: float | None
    """Processes that wanted to run, over the last minute; None where the system does not tell."""
    busy: float
    """Share of the processors that were in use while this one only looked."""
    versions: dict[str, str]


def describe_machine() -> Machine:
    """This machine, now."""
    return Machine(
        processor=processor_name(),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        usable_threads=usable_threads(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        busy=psutil.cpu_percent(_LOOK_SECONDS) / 100,
        versions={"python": platform.python_version(), **installed_versions(_PACKAGES)},
    )


@dataclass(frozen=True)
class Clock:
    """What the processors have done so far, and how fast they are."""

    total: float
    """Seconds of all of them."""
    stolen: float
    """Seconds that the host of a virtual machine kept for others."""
    mhz: float | None


def read_clock() -> Clock:
    """Now."""
    times = psutil.cpu_times()
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        frequency = None
    return Clock(sum(times), getattr(times, "steal", 0.0), frequency.current if frequency else None)


def noise_warnings(machine: Machine, before: Clock, after: Clock, runs: Sequence[Rounds]) -> list[str]:
    """A sentence for each sign that the figures are less certain than they look.

    Args:
        machine: As it was before the start.
        before: Then.
        after: After the last round.
        runs: Milliseconds by round, of each measurement.
    """
    found = [w for w in (load_warning(machine),) if w]
    stolen = (after.stolen - before.stolen) / max(after.total - before.total, 1e-9)
    if stolen > _STOLEN:
        found.append(f"the host of this virtual machine kept {stolen:.0%} of its processor time for others.")
    if before.mhz and after.mhz and after.mhz < (1 - _SLOWER) * before.mhz:
        found.append(f"the processors slowed down from {before.mhz:.0f} to {after.mhz:.0f} MHz: they may be throttled.")
    spread = [s for s in map(round_spread, runs) if s > _SPREAD]
    if spread:
        found.append(
            f"{len(spread)} of {len(runs)} measurements differ from round to round, the median round of the worst by "
            f"{max(spread):.0%}: trust the ratios' intervals more than the times."
        )
    return found


def load_warning(machine: Machine) -> str | None:
    """One sentence if something else keeps the machine busy; interleaving evens that out, it does not undo it."""
    if machine.busy <= _BUSY:
        return None
    return (
        f"something else used {machine.busy:.0%} of the processors before the start: take the figures as a hint, and "
        "look at the intervals."
    )
