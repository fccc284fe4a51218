"""Calibration samples: tokens as the tokenizer gives them, labels as transformers' own loss wants them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_model, tiny_tokenizer
from edgeport.errors import UsageError
from edgeport_export.calibration import Calibration, load_calibration
from edgeport_export.recipe import Recipe
from edgeport_export.source import Source, load_source
from transformers import PretrainedConfig

NAMES = {0: "sad", 1: "neutral", 2: "glad"}
TEXTS = ("the train was over", "water", "an hour and the rest of it", "the sea")


def source_for(task: str, model_type: str = "bert", **config: Any) -> Source:
    source = load_source(tiny_model(model_type, task), Recipe(task=task), tokenizer=tiny_tokenizer())
    for name, value in config.items():
        setattr(source.config, name, value)
    return source


def load(source: Source, path: Path, **recipe: Any) -> Calibration:
    return load_calibration(source, Recipe(calibration=str(path), **recipe))


def loss_of(source: Source, samples: Calibration) -> list[float]:
    """What transformers makes of each batch: fails where inputs or labels are not what it wants."""
    with torch.no_grad():
        return [source.model(**batch.inputs, **batch.labels).loss.item() for batch in samples.batches()]


def test_labelled_texts_in_batches_of_one_length(tmp_path: Path) -> None:
    source = source_for("text-classification", id2label=NAMES)
    (tmp_path / "rows.csv").write_text("utterance,label\n" + "".join(f"{t},glad\n" for t in TEXTS) + "the sea,0\n")
    samples = load(source, tmp_path / "rows.csv", columns={"text": "utterance"})
    assert str(samples) == "5 labelled rows of rows.csv"
    batches = samples.batches()
    assert [tuple(b.inputs["input_ids"].shape) for b in batches] == sorted(
        (tuple(b.inputs["input_ids"].shape) for b in batches), key=lambda shape: shape[1]
    )
    assert sum(len(b.labels["labels"]) for b in batches) == 5
    assert all(b.inputs["attention_mask"].all() for b in batches)
    wanted = sorted(tiny_tokenizer()(text)["input_ids"] for text in (*TEXTS, "the sea"))
    assert sorted(row for b in batches for row in b.inputs["input_ids"].tolist()) == wanted
    assert sorted(i for b in batches for i in b.labels["labels"].tolist()) == [0, 2, 2, 2, 2]
    assert max(loss_of(source, samples)) > 0


def test_rows_without_labels_and_plain_text(tmp_path: Path) -> None:
    source = source_for("text-classification")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    (tmp_path / "rows.txt").write_text("\n\n".join(TEXTS))
    for name in ("rows.jsonl", "rows.txt"):
        samples = load(source, tmp_path / name)
        assert str(samples) == f"4 unlabelled rows of {name}"
        assert all(not b.labels for b in samples.batches())


def test_the_seed_draws_the_rows(tmp_path: Path) -> None:
    source = source_for("fill-mask")
    (tmp_path / "rows.txt").write_text("\n".join("the hour " * n for n in range(1, 30)))
    drawn = [
        load_calibration(source, Recipe(calibration=str(tmp_path / "rows.txt"), seed=s), 5).rows for s in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 5


def test_tags_stand_at_the_first_token_of_a_word(tmp_path: Path) -> None:
    source = source_for("token-classification", id2label={0: "O", 1: "B-X", 2: "I-X"})
    (tmp_path / "rows.tsv").write_text("train\tB-X\nxyz\tI-X\nthe\tO\n\nwater\tB-X\n")
    samples = load(source, tmp_path / "rows.tsv")
    row = samples.rows[0]
    tokens = tiny_tokenizer().convert_ids_to_tokens(row["input_ids"])
    assert tokens == ["[CLS]", "train", "x", "##y", "##z", "the", "[EOS]"]
    assert row["labels"] == [-100, 1, 2, -100, -100, 0, -100]
    assert max(loss_of(source, samples)) > 0


def test_answers_become_spans(tmp_path: Path) -> None:
    source = source_for("question-answering")
    context = "the train was over water"
    answers = ({"text": ["was over"], "answer_start": [10]}, {"text": [], "answer_start": []})
    rows = [{"question": "the hour", "context": context, "answers": a} for a in answers]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = load(source, tmp_path / "rows.jsonl")
    answered, not_answered = samples.rows
    found = answered["input_ids"][answered["start_positions"] : answered["end_positions"] + 1]
    assert tiny_tokenizer().decode(found) == "was over"
    assert (not_answered["start_positions"], not_answered["end_positions"]) == (0, 0)
    assert max(loss_of(source, samples)) > 0


def test_scores_and_several_labels(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("text,label\nthe sea,0.5\n")
    scores = load(source_for("text-classification", problem_type="regression"), tmp_path / "scores.csv")
    assert scores.rows[0]["labels"] == 0.5
    (tmp_path / "several.jsonl").write_text(json.dumps({"text": "the sea", "label": ["sad", "glad"]}))
    source = source_for("text-classification", problem_type="multi_label_classification", id2label=NAMES)
    several = load(source, tmp_path / "several.jsonl")
    assert several.rows[0]["labels"] == [1.0, 0.0, 1.0]
    assert loss_of(source, several)[0] > 0


def test_sentences_of_a_pair_are_rows_of_their_own(tmp_path: Path) -> None:
    source = source_for("sentence-embedding")
    (tmp_path / "pairs.tsv").write_text("4.5\tthe sea\twater\n")
    samples = load(source, tmp_path / "pairs.tsv")
    assert [row["input_ids"] for row in samples.rows] == [
        tiny_tokenizer()(t)["input_ids"] for t in ("the sea", "water")
    ]
    assert samples.labels == ()


def test_text_to_go_on_with_comes_in_pieces(tmp_path: Path) -> None:
    source = source_for("text-generation", "llama")
    source = replace(source, max_length=16)
    (tmp_path / "book.txt").write_text("the train was over water and hour " * 20)
    samples = load(source, tmp_path / "book.txt")
    assert {len(row["input_ids"]) for row in samples.rows} == {16}
    ids = tiny_tokenizer()("the train was over water and hour " * 20, add_special_tokens=False)["input_ids"]
    assert [token for row in samples.rows for token in row["input_ids"]] == ids[: len(ids) // 16 * 16]
    assert max(loss_of(source, samples)) > 0


@pytest.mark.parametrize(
    ("task", "name", "content", "columns", "message"),
    [
        (
            "text-classification",
            "a.csv",
            "text,label\nthe sea,angry\n",
            {},
            r"'angry' of row 1 is not one of the model's",
        ),
        ("text-classification", "a.csv", "text,x\nthe sea,angry\n", {"label": "intent"}, "no column 'intent'"),
        ("text-classification", "a.txt", "\n", {}, "has no lines"),
        ("text-classification", "none.txt", None, {}, "cannot be read"),
        ("question-answering", "a.txt", "the sea\n", {}, "this task reads question and context"),
        ("question-answering", "a.csv", "question,context,answers\nthe,sea,sea\n", {}, "as SQuAD does"),
        ("text-generation", "a.txt", "the sea", {}, "has 4 tokens: give at least 128"),
    ],
)
def test_what_a_file_lacks_is_said(
    task: str, name: str, content: str | None, columns: dict[str, str], message: str, tmp_path: Path
) -> None:
    source = source_for(task, "llama" if task == "text-generation" else "bert")
    if isinstance(source.config, PretrainedConfig) and task == "text-classification":
        source.config.id2label = NAMES
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        load(source, tmp_path / name, columns=columns)


def test_no_file_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="pass --calibration FILE"):
        load_calibration(source_for("text-classification"), Recipe())


def test_labels_are_for_all_rows_or_for_none(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "the sea"}\n{"text": "water", "label": 1}\n')
    with pytest.raises(UsageError, match=r"row 1 of .* has no column 'label'"):
        load(source_for("text-classification"), tmp_path / "rows.jsonl")
