"""transformers looks for its models once. Import this before anything that imports ``transformers.models``.

To know what it could import, transformers reads the source of each of its 1,700 files when it is imported, and again
when ``transformers.models`` is: its cache of folders is smaller than their number (5.23). The second time is half a
second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import import_utils

_usual = getattr(import_utils, "create_import_structure_from_path", None)


def _structure(module_path: str | Path) -> Any:
    """Of a folder, given itself or a file in it: under one key, so that the cache has it."""
    assert _usual is not None
    folder = Path(module_path)
    return _usual(folder.parent if folder.is_file() else folder)


if _usual is not None:
    import_utils.create_import_structure_from_path = _structure
