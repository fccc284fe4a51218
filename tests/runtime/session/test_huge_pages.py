"""Weights of a loop in huge pages, as the kernel itself tells."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np
import pytest
from edgeport.session.huge_pages import NewMemory, _added, _pieces

MIB = 2**20
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.parametrize(
    ("before", "after", "added"),
    [
        ([], [(0, 9)], [(0, 9)]),
        ([(0, 9)], [(0, 9)], []),
        ([(0, 9)], [], []),
        ([(2, 4)], [(2, 9)], [(4, 9)]),  # a heap that grew
        ([(4, 6)], [(0, 9)], [(0, 4), (6, 9)]),  # neighbours became one
        ([(0, 2), (4, 6), (8, 9)], [(1, 5), (5, 10)], [(2, 4), (6, 8), (9, 10)]),
        ([(0, 9)], [(3, 4)], []),
    ],
)
def test_memory_that_was_there_before_is_not_counted(before, after, added):
    assert _added(before, after) == added


def test_only_whole_huge_pages_are_asked_for_and_little_at_a_time():
    assert _pieces([(1, 2 * MIB), (3 * MIB, 7 * MIB), (9 * MIB, 11 * MIB)]) == [(4 * MIB, 6 * MIB)]
    pieces = _pieces([(0, 100 * MIB)])
    assert [end - begin for begin, end in pieces] == [32 * MIB, 32 * MIB, 32 * MIB, 4 * MIB]
    assert [begin for begin, _ in pieces] == [0, *(end for _, end in pieces[:-1])]


@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(), reason="this system has no transparent huge pages"
)
def test_the_kernel_makes_huge_pages_and_the_content_stays():
    content = np.random.default_rng(0).integers(0, 256, 8 * MIB, np.uint8)
    with NewMemory() as memory:
        taken = mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        taken[:] = content.tobytes()
    array = np.frombuffer(taken, np.uint8)
    thread = memory.collapse()
    assert thread is not None
    thread.join()
    assert "hg" in _flags(array.ctypes.data)
    np.testing.assert_array_equal(array, content)
    assert memory.collapse() is None  # once is enough


def _flags(address: int) -> list[str]:
    """What the kernel notes of the mapping that the address lies in, in letters of two (proc(5), VmFlags)."""
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE):
        addresses = mapping.split(maxsplit=1)[0].split("-") if mapping else []
        if len(addresses) == 2 and int(addresses[0], 16) <= address < int(addresses[1], 16):
            return re.findall(r"^VmFlags: (.*)$", mapping, re.MULTILINE)[0].split()
    raise AssertionError(f"no mapping holds {address:x}")
