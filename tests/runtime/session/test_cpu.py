from __future__ import annotations

import os
from pathlib import Path

import pytest
from edgeport.session import cpu
from edgeport.session.cpu import parse_cpuinfo, usable_threads


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text + "\n")


@pytest.fixture
def eight_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux system of 16 processors, two to a core."""
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    monkeypatch.setattr(cpu, "_affinity", lambda: set(range(16)))
    for i in range(16):
        put(tmp_path, f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list", f"{i % 8},{i % 8 + 8}")
    return tmp_path


def test_two_threads_of_a_core_count_once(eight_cores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_threads(eight_cores) == 8
    monkeypatch.setattr(cpu, "_affinity", lambda: {0, 8, 3})
    assert usable_threads(eight_cores) == 2


@pytest.mark.parametrize(
    ("limit", "threads"),
    [
        ("max 100000", 8),
        ("400000 100000", 4),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("9900000 100000", 8),
        ("", 8),
    ],
)
def test_cgroup_2(eight_cores: Path, limit: str, threads: int) -> None:
    put(eight_cores, "proc/self/cgroup", "0::/a/b")
    put(eight_cores, "sys/fs/cgroup/a/b/cpu.max", limit)
    assert usable_threads(eight_cores) == threads


def test_cgroup_2_of_a_parent_and_of_a_container(eight_cores: Path) -> None:
    put(eight_cores, "proc/self/cgroup", "0::/not/mounted/here")
    put(eight_cores, "sys/fs/cgroup/cpu.max", "300000 100000")
    assert usable_threads(eight_cores) == 3
    put(eight_cores, "sys/fs/cgroup/not/cpu.max", "200000 100000")
    assert usable_threads(eight_cores) == 2


@pytest.mark.parametrize(("quota", "threads"), [("-1", 8), ("150000", 1), ("600000", 6)])
def test_cgroup_1(eight_cores: Path, quota: str, threads: int) -> None:
    put(eight_cores, "proc/self/cgroup", "4:memory:/x\n3:cpu,cpuacct:/job\n0::/")
    put(eight_cores, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", quota)
    put(eight_cores, "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000")
    assert usable_threads(eight_cores) == threads


def test_without_topology_every_processor_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    monkeypatch.setattr(cpu, "_affinity", lambda: {1, 5, 7})
    assert usable_threads(tmp_path) == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_affinity_of_this_process() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= usable_threads() <= len(allowed)


def test_cpuinfo_of_x86_and_arm() -> None:
    assert parse_cpuinfo("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n") == {"fpu", "avx2", "avx512_vnni"}
    assert parse_cpuinfo("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n") == {"fp", "asimd", "asimddp", "i8mm"}
    assert parse_cpuinfo("") == frozenset()
