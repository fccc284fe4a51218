"""Which versions of packages are installed, for manifests and reports."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

__all__ = ["installed_versions"]

_ALSO = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")}
"""Distributions that bring the same package under a name of their own."""


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Package to version; those that are not installed are left out."""
    found = {}
    for package in packages:
        for name in (package, *_ALSO.get(package, ())):
            try:
                found[package] = version(name)
                break
            except PackageNotFoundError:
                continue
    return found
