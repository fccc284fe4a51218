"""Labelled files in every format, metrics worked out by hand, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from edgeport.cli import main
from edgeport.errors import UsageError
from edgeport_export.quality import SCORERS
from edgeport_export.quality.rows import read_rows

INTENTS, ENTITIES, PAIRS = (SCORERS[t] for t in ("text-classification", "token-classification", "sentence-embedding"))


class _Classifier:
    """Calls everything a boat that has a sail in it."""

    bundle = SimpleNamespace(manifest=SimpleNamespace(labels=("boat", "train", "car"), task_options={}))

    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        return [{"label": "boat" if "sail" in text else "train", "score": 0.9} for text in texts]


class _Tagger:
    """Every word of capitals is a place, in tokens of two letters; reads forty characters at most."""

    def __call__(self, sentences: list[list[str]], **options: Any) -> list[list[dict[str, Any]]]:
        assert options == {"is_split_into_words": True, "aggregation_strategy": "none", "ignore_labels": []}
        answers = []
        for words in sentences:
            tokens, start, last = [], 0, "O"
            for word in words:
                tag = ("I-LOC" if last != "O" else "B-LOC") if word.isupper() else "O"
                for at in range(start, start + len(word), 2):
                    # What follows a word's first token must not matter.
                    tokens.append({"start": at, "entity": tag if at == start else "B-PER"})
                last = tag
                start += len(word) + 1
            answers.append([t for t in tokens if t["start"] < 40])
        return answers


def test_accuracy_and_f1() -> None:
    rows = [
        {"text": "a sail", "label": "boat"},
        {"text": "sails", "label": "train"},
        {"text": "rails", "label": "train"},
        {"text": "wheel", "label": "car"},
    ]
    figures = INTENTS.score(_Classifier(), rows)
    # boat: precision 1/2, recall 1; train: precision 1/2, recall 1/2; car: never found
    assert figures == pytest.approx({"accuracy": 50.0, "macro F1": 100 * (2 / 3 + 1 / 2 + 0) / 3})


def test_a_label_that_the_model_does_not_have() -> None:
    with pytest.raises(UsageError, match="label 'plane' is not one of the model's"):
        INTENTS.score(_Classifier(), [{"text": "x", "label": "plane"}])


def test_entities_count_whole() -> None:
    rows = [
        {"tokens": ["to", "NEW", "YORK", "by", "boat"], "tags": ["O", "B-LOC", "I-LOC", "O", "O"]},
        {"tokens": ["from", "OSLO", "Fjord"], "tags": ["O", "B-LOC", "I-LOC"]},  # found in part: wrong
        {"tokens": ["x" * 45, "ROME"], "tags": ["O", "B-LOC"]},  # beyond the model's length: missed
    ]
    figures = ENTITIES.score(_Tagger(), rows)
    assert figures == pytest.approx({"entity F1": 40.0, "precision": 50.0, "recall": 100 / 3})


def test_formats_give_the_same_rows(tmp_path: Path) -> None:
    files = {
        "a.tsv": "ACE\tB-C\nhelps\tO\n\nno\tO\n",
        "a.conll": "ACE NN x B-C\nhelps VB y O\n\nno DT z O",
        "a.jsonl": '{"tokens": ["ACE", "helps"], "tags": ["B-C", "O"]}\n\n{"tokens": ["no"], "tags": ["O"]}\n',
    }
    wanted = [{"tokens": ["ACE", "helps"], "tags": ["B-C", "O"]}, {"tokens": ["no"], "tags": ["O"]}]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert read_rows(tmp_path / name, ENTITIES) == wanted, name
    (tmp_path / "b.csv").write_text('utterance,label\n"a, b",x\n')
    assert read_rows(tmp_path / "b.csv", INTENTS, {"text": "utterance"}) == [{"text": "a, b", "label": "x"}]


@pytest.mark.parametrize(
    ("name", "text", "renamed", "message"),
    [
        ("a.csv", "text,category\nx,y\n", {}, r"row 1 of .*a\.csv has no column 'label' \(it has text, category\)"),
        ("a.csv", "text,label\nx\n", {}, "row 1 .* has no column 'label'"),
        ("a.csv", "text,label\nx,y\n", {"texts": "text"}, "column 'texts' is not one that is read"),
        ("a.csv", "text,label\n", {}, "has no rows"),
        ("a.jsonl", '{"text": "x", "label": "y"}\n{"text":', {}, "line 2 of .* is not JSON"),
        ("a.jsonl", "[1]", {}, "line 1 of .* is no JSON object"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, text: str, renamed: dict[str, str], message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_rows(tmp_path / name, INTENTS, renamed)


def test_a_line_without_a_tag(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("one\tO\ntwo\n")
    with pytest.raises(UsageError, match=r"line 2 of .*a\.tsv is not a word and a tag"):
        read_rows(tmp_path / "a.tsv", ENTITIES)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_rows(tmp_path / "none.tsv", PAIRS)


def test_the_command(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tiny_bundle)]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("sample", "fp32", "wrong", "Spearman"))
    (tmp_path / "a.csv").write_text("s1,s2,gold\na boat,a ship,4\na cat,the moon,0\na hat,a cap,3.5\n")
    columns = "sentence1=s1,sentence2=s2,score=gold"
    assert main(["evaluate", str(tiny_bundle), str(tmp_path / "a.csv"), "--columns", columns, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [(r["variant"], r["rows"]) for r in results] == [("fp32", 3), ("wrong", 3)]
    assert all(-100 <= r["metrics"]["Spearman"] <= 100 for r in results)
    assert main(["evaluate", str(tiny_bundle), str(tmp_path / "a.csv"), "--columns", "score"]) == 2
    assert "--columns 'score'" in capsys.readouterr().err
