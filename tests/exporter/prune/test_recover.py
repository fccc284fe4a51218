"""Distillation: nearer to the original afterwards, the same by seed, and going on where it was interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from architectures import tiny_model, tiny_tokenizer
from edgeport.errors import UsageError
from edgeport_export.calibration import load_calibration
from edgeport_export.head import ExportHead
from edgeport_export.prune import prune
from edgeport_export.prune.objective import outputs
from edgeport_export.pruning import Prune, Recover
from edgeport_export.recipe import Recipe
from edgeport_export.source import Source, load_source
from torch import Tensor


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f"the train {'and ' * n}hour,{n % 3}\n" for n in range(24))
    )
    return tmp_path / "rows.csv"


def recovered(task: str, texts: Path, recover: Recover | None, layers: int = 0) -> tuple[Source, Tensor]:
    source = load_source(tiny_model("bert", task, num_hidden_layers=3), Recipe(task=task), tokenizer=tiny_tokenizer())
    names = tuple(f"bert.encoder.layer.{i}" for i in range(layers))
    cut = Prune(ffn=0.5, layers=names or 0, reconstruct=False, importance="magnitude")
    recipe = Recipe(task=task, calibration=str(texts), prune=cut, recover=recover)
    prune(source, recipe)
    head = ExportHead(source)
    return source, torch.cat([outputs(head, b) for b in load_calibration(source, recipe).batches()])


@pytest.mark.parametrize(
    ("task", "layers"), [("text-classification", 1), ("token-classification", 0), ("sentence-embedding", 0)]
)
def test_nearer_to_the_original(task: str, layers: int, texts: Path) -> None:
    if task != "text-classification":
        texts = texts.with_suffix(".txt")
        texts.write_text("\n".join(f"the train {'and ' * n}hour" for n in range(24)))
    original = load_source(tiny_model("bert", task, num_hidden_layers=3), Recipe(task=task), tokenizer=tiny_tokenizer())
    batches = load_calibration(original, Recipe(task=task, calibration=str(texts))).batches()
    wanted = torch.cat([outputs(ExportHead(original), b) for b in batches])
    _, without = recovered(task, texts, None, layers)
    source, given = recovered(task, texts, Recover(steps=60, batch=8, learning_rate=3e-3), layers)
    assert (given - wanted).norm() < 0.6 * (without - wanted).norm()
    assert source.pruning["recovered"]["steps"] == 60
    assert not source.model.training


def test_the_seed_decides_and_an_interruption_does_not(texts: Path, tmp_path: Path) -> None:
    _, whole = recovered("text-classification", texts, Recover(steps=60, batch=8))
    _, again = recovered("text-classification", texts, Recover(steps=60, batch=8, folder=str(tmp_path / "run")))
    assert torch.equal(whole, again)
    (kept,) = (tmp_path / "run").glob("checkpoint-*")
    assert kept.name == "checkpoint-60"
    _, resumed = recovered("text-classification", texts, Recover(steps=60, batch=8, folder=str(tmp_path / "run")))
    torch.testing.assert_close(resumed, whole)


def test_minutes_become_steps_and_nothing_is_printed(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = recovered("text-classification", texts, Recover(minutes=0.01, batch=4))
    assert source.pruning["recovered"]["steps"] >= 1
    assert capsys.readouterr().out == ""


def test_what_is_left_open_follows_from_the_rows_and_the_model(texts: Path) -> None:
    before = tiny_model("bert", "text-classification", num_hidden_layers=3)
    table = before.get_input_embeddings().weight.clone()
    source, _ = recovered("text-classification", texts, Recover(steps=3))
    assert source.pruning["recovered"]["batch"] == round(512 / 16.5)  # 24 rows of 5 to 28 tokens
    assert torch.equal(source.model.get_input_embeddings().weight, table)
    assert source.model.get_input_embeddings().weight.requires_grad


@pytest.mark.parametrize(
    ("text", "message"),
    [("soon", "is no time: write it like 10m"), ("0m", "all are to be above 0"), ("1m,speed=9", "'speed' is not known"),
     ("1m,rate=x", "has no value that fits"), ("1m,logs=yes", "name one")],
)  # fmt: skip
def test_what_is_no_time_is_said(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recover.parse(text)


def test_nothing_to_recover_from() -> None:
    with pytest.raises(UsageError, match="pass --prune as well"):
        Recipe(calibration="a.csv", recover=Recover())
    assert Recover.parse("500steps") == Recover(minutes=500, steps=500)
    assert Recover.parse("500steps,batch=8") == Recover(minutes=500, steps=500, batch=8)
