"""The runtime stands alone, and says what it exports."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import edgeport

HEAVY = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "edgeport_export", "edgeport_bench"}


def test_importing_edgeport_brings_nothing_heavy() -> None:
    code = "import edgeport, edgeport.tasks, edgeport.text, sys, json; print(json.dumps(sorted(sys.modules)))"
    root = str(Path(edgeport.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(result.stdout)
    modules = {name.partition(".")[0] for name in loaded}
    assert "numpy" in modules
    assert not modules & HEAVY
    assert "edgeport.bundle.reader" in loaded
    assert "edgeport.bundle.writer" not in loaded
    assert not modules & {"onnxruntime", "tokenizers"}, "these are slow to import, so they come with the first bundle"


def test_exported_members() -> None:
    public = {
        name
        for name, value in vars(edgeport).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    # ``load`` is a module too, but the function of that name hides it.
    assert {*public, "__version__"} == set(edgeport.__all__)
    assert edgeport.__all__ == sorted(edgeport.__all__)


def test_all_errors_are_exported() -> None:
    assert set(edgeport.errors.__all__) <= set(edgeport.__all__)


def test_version() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert edgeport.__version__ == tomllib.loads(pyproject.read_text())["project"]["version"]
