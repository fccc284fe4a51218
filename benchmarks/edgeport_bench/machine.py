"""What the figures were taken on: processor, memory, versions, and whether the machine was busy with something else."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import psutil
from edgeport.session import processor_name, usable_threads

__all__ = ["Machine", "describe_machine", "load_warning"]

_PACKAGES = ("edgeport", "onnxruntime", "tokenizers", "numpy", "torch", "transformers")
_BUSY = 0.3
"""Share of the processors that others may use before a warning is due."""


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
        versions={"python": platform.python_version(), **_versions()},
    )


def load_warning(machine: Machine) -> str | None:
    """One sentence if something else keeps the machine busy; interleaving evens that out, it does not undo it."""
    load = machine.load_average
    if load is None or load <= _BUSY * machine.usable_threads:
        return None
    return (
        f"the machine was busy before the start (load average {load:.1f}, {machine.usable_threads} threads): "
        "take the figures as a hint, and look at the intervals."
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
