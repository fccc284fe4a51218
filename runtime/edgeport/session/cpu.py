"""What this process may use of the CPU: threads and instruction sets. Reads the system, and nothing of models."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import lru_cache
from pathlib import Path

__all__ = ["cpu_features", "processor_name", "usable_threads"]

_X86 = ("x86_64", "amd64", "i386", "i686", "x86")


def usable_threads(root: Path = Path("/")) -> int:
    """Threads that compute without getting in each other's way: physical cores, within affinity and cgroup quota.

    Args:
        root: Where /proc and /sys are; another folder in tests.
    """
    allowed = _affinity()
    cores = _physical_cores(allowed, root)
    quota = _cgroup_quota(root)
    # A quota of 2.5 processors runs two threads without a pause and would halt three; one thread there must be.
    return max(1, cores if quota is None else min(cores, int(quota)))


@lru_cache(maxsize=1)
def cpu_features() -> frozenset[str]:
    """Instruction sets, by Linux's names (``avx2``, ``avx512_vnni``, ``asimddp``, ...); empty where unknown."""
    if sys.platform == "linux":
        return parse_cpuinfo(_read(Path("/proc/cpuinfo")))
    if sys.platform == "darwin":
        return frozenset(name for key, name in _MACOS_FEATURES.items() if _sysctl(key))
    if sys.platform == "win32":
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return frozenset(name for number, name in _WINDOWS_FEATURES.items() if present(number))
    return frozenset()


def processor_name() -> str:
    """What the processor calls itself, for people."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


_MACOS_FEATURES = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_BF16": "bf16",
}

# Windows has no number for VNNI, so it counts as absent there.
_WINDOWS_FEATURES = {40: "avx2", 41: "avx512f", 43: "asimddp"}


def parse_cpuinfo(text: str) -> frozenset[str]:
    """The first processor's flags (x86) or Features (ARM)."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _affinity() -> set[int]:
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _is_x86() -> bool:
    """Whether this is an x86 processor, of 32 or 64 bits."""
    return platform.machine().lower() in _X86


def _physical_cores(allowed: set[int], root: Path) -> int:
    """Cores behind the processors in ``allowed``: two threads of one core would wait for the same multipliers."""
    if sys.platform == "darwin":
        # Performance cores alone: an efficiency core would be the last to finish every operation.
        return _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or len(allowed)
    if sys.platform == "win32":
        return max(1, len(allowed) // 2) if _is_x86() else len(allowed)  # nearly all x86 there has two threads a core
    topology = root / "sys/devices/system/cpu"
    siblings = {_read(topology / f"cpu{i}/topology/thread_siblings_list") or f"cpu{i}" for i in allowed}
    return len(siblings)


def _cgroup_quota(root: Path) -> float | None:
    """Processors' worth of time that the control groups allow, the tightest of this one and its parents."""
    quotas = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            base, read = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            base, read = root / "sys/fs/cgroup/cpu", _quota_v1
        else:
            continue
        # In a container the path may be the host's, and absent here: what is not there sets no limit.
        group = base / path.strip("/")
        quotas += [read(folder) for folder in (group, *group.parents) if folder.is_relative_to(base)]
    return min((q for q in quotas if q is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    words = _read(folder / "cpu.max").split()
    return _ratio(*words) if len(words) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    """None for no limit: ``max`` in version 2, -1 in version 1, nothing where there is no such file."""
    try:
        value = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return value if value > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _sysctl(name: str) -> int:
    """The integer that macOS keeps under ``name``; 0 where there is none."""
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return 0 if failed else value.value
