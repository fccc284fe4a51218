"""Static int8 from the command line to the manifest, and what bad samples get."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgeport.bundle import Bundle
from edgeport.cli import main
from edgeport.errors import UsageError
from edgeport_export import Recipe, export

LINES = [
    f"the {word} was over an hour late, and the {word} left at {n}:30" for n in range(8) for word in ("train", "boat")
]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES))
    return path


@pytest.mark.parametrize("shape", [[], ["--fixed-shape", "3x24"]], ids=["any shape", "one shape"])
def test_the_manifest_says_what_was_done(tiny_folder: Path, tmp_path: Path, lines: Path, shape: list[str]) -> None:
    options = ["--precision", "int8", "--quantize", "static", "--calibrator", "mse", "--smooth", "--tables", "4"]
    assert main(["export", str(tiny_folder), str(tmp_path / "out"), *options, *shape, "--calibration", str(lines)]) == 0
    manifest = Bundle.open(tmp_path / "out").manifest
    (note,) = manifest.variants["int8"].notes
    assert "smoothed the inputs of 6 products, 2 of them at no cost (alpha 0.5)" in note
    assert "static, ranges by mse: quantized 10 of 10 weights" in note
    assert manifest.variants["int8"].operators["MatMulIntegerToFloat"] == 10
    assert (manifest.recipe["quantize"], manifest.recipe["smooth"], manifest.recipe["tables"]) == ("static", 0.5, 4)


def test_too_few_rows_are_refused(tiny_folder: Path, tmp_path: Path, lines: Path) -> None:
    lines.write_text("\n".join(LINES[:3]))
    recipe = Recipe(precisions=("int8",), quantize="static", calibration=str(lines))
    with pytest.raises(UsageError, match="has 3 rows: give at least 16, better 512"):
        export(tiny_folder, tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()
