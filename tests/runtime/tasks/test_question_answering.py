"""question-answering, against answers that the pipeline of transformers 4.57 gave (tests/data/question_answering)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from edgeport.errors import InputError, UsageError
from edgeport.tasks.answers import likely_spans

DATA = Path(__file__).parents[2] / "data" / "question_answering"
RECORDED = json.loads((DATA / "answers.json").read_text(encoding="utf-8"))
KINDS = sorted({record[0] for record in RECORDED["records"]})


def _pipeline(make: Any, kind: str, side: str) -> Any:
    special = {
        "wordpiece": {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"},
    }.get(kind, {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"})
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(DATA / kind / "tokenizer.json"),
        model_max_length=RECORDED["max_length"],
        padding_side=side,
        add_prefix_space=True,
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(DATA / kind).eval()
    return make("question-answering", model, tokenizer)


@pytest.fixture(scope="module", params=[(kind, side) for kind in KINDS for side in ("right", "left")], ids="-".join)
def recorded(request: pytest.FixtureRequest, make: Any) -> Any:
    """A pipeline, and what the reference answered: [(input, options, answers)]."""
    kind, side = request.param
    records = [r for r in RECORDED["records"] if r[:2] == [kind, side]]
    assert len(records) >= 12
    return _pipeline(make, kind, side), [
        (RECORDED["inputs"][i], RECORDED["options"][j], answers) for _, _, i, j, answers in records
    ]


@pytest.fixture(scope="module")
def pipe(make: Any) -> Any:
    return _pipeline(make, "wordpiece", "right")


def test_same_as_transformers(recorded: Any, assert_same: Any) -> None:
    pipe, calls = recorded
    for given, options, answers in calls:
        assert_same(pipe(**given, **options), answers, f"{given['question']!r} {options}")


def test_the_ways_to_ask(pipe: Any, assert_same: Any) -> None:
    context = RECORDED["inputs"][0]["context"]
    expected = pipe(question="Where?", context=context)
    assert isinstance(expected, dict)
    item = {"question": "Where?", "context": context}
    for result in (pipe("Where?", context), pipe(item), pipe([item]), pipe(question=["Where?"], context=context)):
        assert_same(result, expected)
    assert_same(pipe([item, item]), [expected, expected])
    assert_same(pipe(item, item), [expected, expected])
    stream = pipe(item for _ in range(3))
    assert iter(stream) is stream
    assert_same(list(stream), [expected] * 3)


def test_windows_do_not_depend_on_the_batch(pipe: Any, assert_same: Any) -> None:
    far = RECORDED["inputs"][2]
    options = {"max_seq_len": 40, "doc_stride": 10, "top_k": 5}
    expected = pipe(**far, **options, batch_size=1)
    pipe._runner.shapes.clear()
    assert_same(pipe(**far, **options, batch_size=4), expected, tolerance=1e-5)
    assert {rows for rows, _ in pipe._runner.shapes} > {4}


def test_the_first_token_counts_when_scores_run_out() -> None:
    allowed = np.array([False, True, True])
    spans = likely_spans(np.array([9.0, 1.0, 0.0]), np.array([9.0, 0.0, 1.0]), allowed, 99, 15)
    pairs = list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))
    assert pairs[0] == (1, 2)
    assert set(pairs) == {(a, b) for a in range(3) for b in range(3)}
    assert spans.scores[pairs.index((0, 1))] == spans.scores[pairs.index((2, 1))] == 0


def test_bad_input(pipe: Any) -> None:
    for args, named in [
        ((), {}),
        ((), {"question": "a"}),
        ((), {"question": "", "context": "b"}),
        ((), {"question": "a", "context": ""}),
        ((), {"question": ["a", "b"], "context": ["c"]}),
        ((), {"question": "a", "context": ["c"]}),
        ((3,), {}),
        (("a", 3), {}),
        (({"question": "a"},), {}),
        (({"question": "a", "context": None},), {}),
        (({"question": "a", "context": "b", "id": 3},), {}),
    ]:
        with pytest.raises(InputError):
            pipe(*args, **named)
    with pytest.raises(InputError, match="leaves no room"):
        pipe("why " * 200, "a context")
    for options in (
        {"top_k": 0},
        {"max_answer_len": 0},
        {"max_seq_len": 0},
        {"doc_stride": -1},
        {"max_seq_len": 20, "doc_stride": 30},
    ):
        with pytest.raises(UsageError):
            pipe("a", "b", **options)
    with pytest.raises(UsageError, match="overlap"):
        pipe("a", RECORDED["inputs"][2]["context"], max_seq_len=30, doc_stride=30)
    assert pipe([]) == []
