"""torch.onnx lists its operators anew for every export, a fifth of the time of a tiny one: once is enough here."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator

import pytest
from torch.onnx._internal.exporter import _registration


@pytest.fixture(scope="session", autouse=True)
def one_list_of_operators() -> Iterator[None]:
    original = _registration.ONNXRegistry.from_torchlib
    build = functools.cache(original)

    def fresh(opset_version: int) -> _registration.ONNXRegistry:
        registry = copy.copy(build(opset_version))
        registry.functions = {target: list(found) for target, found in registry.functions.items()}
        return registry

    patch = pytest.MonkeyPatch()
    patch.setattr(_registration.ONNXRegistry, "from_torchlib", fresh)
    yield
    patch.undo()
