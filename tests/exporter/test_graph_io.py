"""Pages of a mapped file are given back, and what was in them is not lost."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from edgeport_export.graph_io import page_out

_BYTES = 2**23


def resident(path: Path) -> int:
    """Bytes of the file's mapping that lie in memory."""
    found = re.search(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_gives_back_what_was_read_and_keeps_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "weights.mapped"
    with path.open("wb") as file:
        file.write(bytes(range(256)) * (_BYTES // 256))
        os.fsync(file.fileno())  # pages that are still to be written to disk would stay
    mapped = np.memmap(path, np.uint8, mode="c")
    mapped[:4096] = 7
    expected = mapped.copy()
    page_out(".other")
    assert resident(path) == _BYTES
    page_out(".mapped")
    assert resident(path) < _BYTES // 2
    np.testing.assert_array_equal(mapped, expected)
