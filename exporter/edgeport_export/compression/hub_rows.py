"""Rows of a data set by its name, for those who have the ``datasets`` library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError

from edgeport_export.messages import first_line
from edgeport_export.quality.rows import Row

__all__ = ["read_dataset"]


def read_dataset(name: str, columns: Sequence[str], renamed: Mapping[str, str]) -> list[Row]:
    """The rows of ``NAME[:SPLIT]``, ``test`` where no split is named; numbers of labels become their names.

    The name is the hub's, or that of a folder: of files that the library reads, or one that ``save_to_disk`` wrote.

    Raises:
        UsageError: the library or the data are absent, or lack a column.
    """
    try:
        import datasets
    except ImportError as e:
        raise UsageError(f"'datasets:{name}' needs the datasets library: pip install datasets, or give a file.") from e
    path, _, split = name.partition(":")
    try:
        data = _load(datasets, path, split or "test")
    except Exception as e:
        raise UsageError(f"'datasets:{name}' cannot be loaded ({first_line(e)}): check the name and the split.") from e
    found = {column: renamed.get(column, column) for column in columns}
    for column, own in found.items():
        if own not in data.column_names:
            raise UsageError(
                f"'datasets:{name}' has no column {own!r} (it has {', '.join(data.column_names)}): "
                f"pass --columns {column}=NAME."
            )
    rows = [{column: row[own] for column, own in found.items()} for row in data]
    return [{c: _named(data.features[found[c]], value) for c, value in row.items()} for row in rows]


def _load(datasets: Any, path: str, split: str) -> Any:
    if (Path(path) / "dataset_dict.json").is_file():
        return datasets.load_from_disk(path)[split]
    if (Path(path) / "dataset_info.json").is_file():
        return datasets.load_from_disk(path)  # one split by itself
    return datasets.load_dataset(path, split=split)


def _named(feature: object, value: object) -> object:
    """The names of labels that the data set stores as numbers."""
    inner = getattr(feature, "feature", feature)
    names = getattr(inner, "names", None)
    if names is None:
        return value
    return [names[v] for v in value] if isinstance(value, list) else names[value]
