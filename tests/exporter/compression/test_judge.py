"""What a judge reads and measures: labels, agreement without them, a function of one's own; and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
from edgeport.errors import UsageError
from edgeport_export.compression.judge import make_judge
from edgeport_export.quality.outcomes import loss_interval

CLASSIFY = "text-classification"


class _Classifier:
    bundle = SimpleNamespace(manifest=SimpleNamespace(labels=("long", "short"), task_options={}))

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        return [{"label": "long" if len(text) > self.limit else "short", "score": 1.0} for text in texts]


def longs(answers: list[Any], rows: list[Any]) -> float:
    """A metric of the user's: how many are called long."""
    return 100 * float(np.mean([a["label"] == "long" for a in answers]))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{'x' * i}\n" for i in range(1, 101)))
    return path


def test_without_labels_agreement_is_measured_and_said(texts: Path) -> None:
    judge = make_judge(CLASSIFY, str(texts), {}, None)
    assert not judge.labelled
    assert "no labels" in judge.says
    before, after = (judge.ask(_Classifier(n), judge.rows) for n in (50, 60))
    loss = loss_interval(*judge.compare(before, after))
    assert (loss.original, loss.model, loss.value) == pytest.approx((100, 90, 10))


def test_a_table_of_texts_alone_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nx\ny\n")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    for name in ("a.csv", "a.jsonl"):
        assert not make_judge(CLASSIFY, str(tmp_path / name), {}, None).labelled


def test_labels_and_metrics_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "text,kind\n" + "".join(f"{'x' * i},{'long' if i > 5 else 'short'}\n" for i in range(1, 11))
    )
    judge = make_judge(CLASSIFY, str(tmp_path / "a.csv"), {"label": "kind"}, "macro f1")
    outcomes = judge.ask(_Classifier(5), judge.rows)
    assert outcomes.values(np.arange(10)[None])[0] == pytest.approx(100)
    assert judge.inputs(judge.rows[:2]) == ["x", "xx"]
    with pytest.raises(UsageError, match="'BLEU' is not one of text-classification's: accuracy, macro F1"):
        make_judge(CLASSIFY, str(tmp_path / "a.csv"), {"label": "kind"}, "BLEU")


def test_a_function_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_metric.py").write_text(
        "def longs(answers, rows):\n    return 100 * sum(a['label'] == 'long' for a in answers) / len(rows)\n"
    )
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{'x' * i},long\n" for i in range(1, 11)))
    judge = make_judge(CLASSIFY, str(tmp_path / "a.csv"), {}, "my_metric:longs")
    loss = loss_interval(*judge.compare(*(judge.ask(_Classifier(n), judge.rows) for n in (4, 6))))
    assert (loss.original, loss.model) == pytest.approx((60, 40))
    with pytest.raises(UsageError, match="cannot be imported"):
        make_judge(CLASSIFY, str(tmp_path / "a.csv"), {}, "my_metric:shorts")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "text,category\nx,y\n", "has no column 'label'"),
        ("a.jsonl", '{"text": "x", "labels": "y"}\n', "has no column 'label'"),
        ("a.jsonl", '{"text": "x"}\n{"text": "y", "label": "long"}\n', "row 1 of .* has no column 'label'"),
        ("none.csv", None, "cannot be read"),
    ],
)
def test_data_that_do_not_fit(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words):
        make_judge(CLASSIFY, str(tmp_path / name), {}, None)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "text\nx\n", "row 1 of .* has no column 'kind'"),
        ("a.csv", "text,kind\nx,long\ny\n", "row 2 of .* has no column 'kind'"),
        ("a.txt", "x\ny\n", "is plain text and has no column 'kind': give a .csv or .jsonl file with one"),
    ],
)
def test_labels_that_were_named_have_to_be_there(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words):
        make_judge(CLASSIFY, str(tmp_path / name), {"label": "kind"}, None)


def test_a_file_of_texts_under_another_name_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("query\nx\ny\n")
    judge = make_judge(CLASSIFY, str(tmp_path / "a.csv"), {"text": "query"}, None)
    assert not judge.labelled
    assert judge.rows == [{"text": "x"}, {"text": "y"}]


def test_unknown_labels_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,medium\n")
    judge = make_judge(CLASSIFY, str(tmp_path / "a.csv"), {}, None)
    with pytest.raises(UsageError, match="label 'medium' is not one of the model's"):
        judge.ask(_Classifier(3), judge.rows)


def test_a_data_set_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "kind": datasets.ClassLabel(names=["short", "long"])}
    )
    data = datasets.Dataset.from_dict({"text": ["x", "xx"], "kind": [0, 1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, split: data)
    judge = make_judge(CLASSIFY, "datasets:mine:validation", {"label": "kind"}, None)
    assert list(judge.rows) == [{"text": "x", "label": "short"}, {"text": "xx", "label": "long"}]
    with pytest.raises(UsageError, match="has no column 'label'"):
        make_judge(CLASSIFY, "datasets:mine", {}, None)


def test_a_data_set_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the library itself loads it: files with a card that says what the numbers mean, and what it has saved."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files = tmp_path / "files"
    files.mkdir()
    (files / "train.csv").write_text("text,kind\nxxx,1\n")
    (files / "test.csv").write_text("text,kind\nx,0\nxx,1\n")
    (files / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: kind\n    dtype:\n"
        "      class_label:\n        names:\n          '0': short\n          '1': long\n---\n"
    )
    columns, wanted = {"label": "kind"}, [{"text": "x", "label": "short"}, {"text": "xx", "label": "long"}]
    assert list(make_judge(CLASSIFY, f"datasets:{files}", columns, None).rows) == wanted
    assert list(make_judge(CLASSIFY, f"datasets:{files}:train", columns, None).rows) == [
        {"text": "xxx", "label": "long"}
    ]
    whole = datasets.load_dataset(str(files))
    whole.save_to_disk(tmp_path / "whole")
    whole["test"].save_to_disk(tmp_path / "part")
    for name in ("whole", "part"):
        assert list(make_judge(CLASSIFY, f"datasets:{tmp_path / name}", columns, None).rows) == wanted
    with pytest.raises(UsageError, match=r"cannot be loaded .*: check the name and the split"):
        make_judge(CLASSIFY, f"datasets:{files}:validation", columns, None)


def test_without_the_datasets_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UsageError, match="needs the datasets library: pip install datasets"):
        make_judge(CLASSIFY, "datasets:mine", {}, None)
