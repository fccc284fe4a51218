"""``edgeport export`` in process: what it prints, what it refuses, and with which exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from edgeport.bundle import Bundle
from edgeport.cli import main


def test_json_tells_everything(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tiny_folder), str(tmp_path / "b"), "--precision", "int8", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["task"] == "text-classification"
    assert list(out["variants"]) == ["int8"]
    assert out["capture"]["path"] == "fused"
    assert Bundle.open(tmp_path / "b", verify=True).manifest.recipe["precisions"] == ["int8"]


def test_the_summary_names_every_variant(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tiny_folder), str(tmp_path / "b"), "--keep-fp32", "classifier"]) == 0
    out = capsys.readouterr().out
    assert "fp32" in out
    assert "int8" in out
    assert "kept in fp32 as asked: model.classifier.weight" in out


def test_dry_run_writes_nothing(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tiny_folder), str(tmp_path / "b"), "--dry-run", "--fixed-shape", "1x32"]) == 0
    out = capsys.readouterr().out
    assert "BertForSequenceClassification" in out
    assert '"fixed_shape": [\n    1,\n    32\n  ]' in out
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_wins_over_the_recipe(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text('precisions = ["fp16"]\nopset = 21\n')
    args = ["export", str(tiny_folder), str(tmp_path / "b"), "--recipe", str(tmp_path / "r.toml"), "--opset", "22"]
    assert main([*args, "--dry-run", "--json"]) == 0
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    assert (recipe["precisions"], recipe["opset"]) == (["fp16"], 22)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--task", "juggling"], "task 'juggling' is not supported: choose from"),
        (["--precision", "int3"], "precision 'int3' is not known"),
        (["--fixed-shape", "128"], "write it like 1x128"),
        (["--opset", "7"], "choose 18 to 23"),
        (["--recipe", "none.toml"], "cannot be read"),
        (["--colour"], "--colour"),
    ],
)
def test_a_wrong_call_is_one_sentence(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["export", str(tiny_folder), str(tmp_path / "b"), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "b").exists()


def test_an_existing_folder_is_refused_before_any_work(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").touch()
    assert main(["export", str(tiny_folder), str(tmp_path / "b"), "--force"]) == 2
    assert "not a bundle" in capsys.readouterr().err
