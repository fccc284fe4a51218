"""Energy counters, of a made tree of Linux's and of a made library of NVIDIA's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from edgeport_bench import energy
from edgeport_bench.energy import read_joules, used_joules


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    energy._nvml.cache_clear()
    yield
    energy._nvml.cache_clear()


def _zone(root: Path, name: str, joules: float, limit: float = 100.0) -> None:
    (root / name).mkdir(exist_ok=True)
    (root / name / "energy_uj").write_text(f"{int(joules * 1e6)}\n", encoding="ascii")
    (root / name / "max_energy_range_uj").write_text(f"{int(limit * 1e6)}\n", encoding="ascii")


def test_packages_count_once_and_wrap_around(tmp_path: Path) -> None:
    for name, joules in (("intel-rapl:0", 10.0), ("intel-rapl:1", 99.0), ("intel-rapl:0:0", 5.0)):
        _zone(tmp_path, name, joules)
    before = read_joules(tmp_path)
    assert before == {"intel-rapl:0": (10.0, 100.0), "intel-rapl:1": (99.0, 100.0)}
    _zone(tmp_path, "intel-rapl:0", 13.0)
    _zone(tmp_path, "intel-rapl:1", 1.0)
    assert used_joules(before, read_joules(tmp_path), runs=5) == pytest.approx((3 + 2) / 5)


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl:0").mkdir()
    assert read_joules(tmp_path) == {}
    assert used_joules({}, {}, runs=1) is None
    assert used_joules({"a": (1, 2)}, {"b": (1, 2)}, runs=1) is None


class _Error(Exception):
    pass


def _library(counters: list[int | None], *, driver: bool = True) -> Any:
    def start() -> None:
        if not driver:
            raise _Error

    def read(device: int) -> int:
        found = counters[device]
        if found is None:
            raise _Error
        return found

    return SimpleNamespace(
        NVMLError=_Error,
        nvmlInit=start,
        nvmlDeviceGetCount=lambda: len(counters),
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTotalEnergyConsumption=read,
    )


def test_gpus_count_too_but_for_those_that_tell_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counters: list[int | None] = [5_000, None, 7_500]
    monkeypatch.setitem(sys.modules, "pynvml", _library(counters))
    before = read_joules(tmp_path)
    assert {name: joules for name, (joules, _) in before.items()} == {"gpu:0": 5.0, "gpu:2": 7.5}
    counters[:] = [6_000, None, 8_000]
    assert used_joules(before, read_joules(tmp_path), runs=3) == pytest.approx(0.5)


def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _library([1], driver=False))
    assert read_joules(tmp_path) == {}
