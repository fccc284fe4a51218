"""What all pipelines share: batches, order, streams, threads, fixed shapes, left padding, closing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import transformers
from edgeport.errors import BundleError, InputError, UsageError

LABELS = ["A", "B", "C"]


@pytest.fixture
def model(tokenizers: Any, tiny: Any) -> Any:
    auto = transformers.AutoModelForSequenceClassification
    return tiny(auto, "wordpiece", tokenizers["wordpiece"], LABELS)


@pytest.fixture
def build(tokenizers: Any, make: Any, model: Any) -> Any:
    def build(**options: Any) -> Any:
        return make("text-classification", model, tokenizers["wordpiece"], labels=LABELS, **options)

    return build


@pytest.fixture
def texts(corpus: Any) -> list[str]:
    return [" ".join(text.split()[:n]) for n in (1, 12, 3, 7, 2, 9) for text in corpus]


def test_order_and_scores_do_not_depend_on_batches(build: Any, texts: Any, assert_same: Any) -> None:
    one_by_one = [build()(text, top_k=None) for text in texts]
    for size in (1, 2, 5, 32, 100):
        pipe = build(batch_size=size)
        assert_same(pipe(texts, top_k=None), one_by_one)
        assert max(rows for rows, _ in pipe._runner.shapes) == min(size, len(texts))
    assert_same(build()(texts, top_k=None, batch_size=3), one_by_one)
    assert_same(build()(tuple(texts), top_k=None), one_by_one)


def test_similar_lengths_go_together(build: Any, texts: Any) -> None:
    pipe = build(batch_size=6)
    pipe(texts)
    lengths = [length for _, length in pipe._runner.shapes]
    assert lengths == sorted(lengths, reverse=True)
    assert all(length % 8 == 0 for length in lengths)


def test_a_generator_is_read_in_chunks(build: Any, texts: Any, assert_same: Any) -> None:
    read: list[str] = []

    def source() -> Any:
        for text in texts:
            read.append(text)
            yield text

    pipe = build(batch_size=4)
    stream = pipe(source())
    assert read == []
    first = next(stream)
    assert len(read) == 4
    assert_same([first, *stream], pipe(texts))


def test_threads(build: Any, texts: Any, long_text: str, assert_same: Any) -> None:
    pipe = build()
    jobs = [
        (texts[i % len(texts)] if i % 3 else long_text, {"truncation": True, "max_length": 5 + i % 9})
        for i in range(90)
    ]
    expected = [pipe(text, **options) for text, options in jobs]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda job: pipe(job[0], **job[1]), jobs))
    for result, reference in zip(results, expected, strict=True):
        assert_same(result, reference)


@pytest.mark.parametrize(
    "fixed", [{"fixed_length": 32}, {"fixed_batch": 4}, {"fixed_length": 32, "fixed_batch": 4}], ids=str
)
def test_fixed_shapes(build: Any, texts: Any, assert_same: Any, fixed: dict[str, int]) -> None:
    pipe = build(**fixed)
    assert_same(pipe(texts, top_k=None), build()(texts, top_k=None, truncation=True, max_length=32))
    for rows, length in pipe._runner.shapes:
        assert rows == fixed.get("fixed_batch", rows)
        assert length == fixed.get("fixed_length", length)


def test_a_text_longer_than_the_fixed_length_is_cut(build: Any, long_text: str, assert_same: Any) -> None:
    pipe = build(fixed_length=32)
    with pytest.warns(UserWarning, match="cut to 32"):
        result = pipe(long_text)
    assert_same(result, build()(long_text, truncation=True, max_length=32))


def test_a_graph_without_mask_sees_no_padding(
    tokenizers: Any, make: Any, tiny: Any, texts: Any, assert_same: Any
) -> None:
    tokenizer = tokenizers["wordpiece"]
    model = tiny(transformers.AutoModelForSequenceClassification, "fnet", tokenizer, LABELS, type_vocab_size=2)
    ours = make(
        "text-classification", model, tokenizer, labels=LABELS, inputs=["input_ids", "token_type_ids"], batch_size=4
    )
    assert_same(ours(texts, top_k=None), [ours(text, top_k=None) for text in texts])
    assert max(rows for rows, _ in ours._runner.shapes) > 1
    tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer, model_input_names=["input_ids", "token_type_ids"]
    )
    theirs = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert_same(ours(texts, top_k=None), theirs(texts, top_k=None))


@pytest.mark.parametrize("exact", [True, False])
def test_padding_on_the_left(build: Any, texts: Any, assert_same: Any, exact: bool) -> None:
    pipe = build(padding_side="left", maskable_padding=not exact)
    result = pipe(texts, top_k=None)
    assert pipe._padding.exact is exact
    if exact:  # BERT notices where a text starts
        assert_same(result, build()(texts, top_k=None))
    else:
        assert any(length % 8 == 0 and rows > 6 for rows, length in pipe._runner.shapes)


def test_padding_that_cannot_be_masked(build: Any, texts: Any) -> None:
    pipe = build(maskable_padding=False)
    pipe(texts)
    assert pipe._padding.exact


def test_life(build: Any) -> None:
    with build() as pipe:
        pipe.warm_up()
        assert [shape[0] for shape in pipe._runner.shapes] == [1, 1, 1]
        assert [shape[1] for shape in pipe._runner.shapes] == [64, 32, 8]
        assert pipe.report() == "fake"
        assert pipe.task == pipe.bundle.manifest.task == "text-classification"
        assert "text-classification" in repr(pipe)
    assert pipe._runner.closed
    with pytest.raises(UsageError, match="closed"):
        pipe("a")


def test_a_graph_of_another_task(tokenizers: Any, make: Any, model: Any) -> None:
    from edgeport.tasks import TASKS, pipeline_class
    from edgeport.tasks.question_answering import QuestionAnswering

    pipe = make("text-classification", model, tokenizers["wordpiece"], labels=LABELS)
    with pytest.raises(BundleError, match="end_logits, start_logits"):
        QuestionAnswering(pipe.bundle, pipe._runner, pipe._text)
    assert all(pipeline_class(name).task == name for name in TASKS)


def test_labels_that_do_not_fit(build: Any) -> None:
    from dataclasses import replace

    pipe = build()
    for labels in ((), ("A", "B")):
        bundle = replace(pipe.bundle, manifest=replace(pipe.bundle.manifest, labels=labels))
        with pytest.raises(BundleError, match=f"3 classes and the bundle {len(labels)} labels"):
            type(pipe)(bundle, pipe._runner, pipe._text)


def test_half_precision(build: Any, texts: Any, assert_same: Any) -> None:
    pipe = build()
    expected = pipe(texts)
    run = pipe._runner.run
    pipe._runner.run = lambda feeds: {name: array.astype(np.float16) for name, array in run(feeds).items()}
    assert_same(pipe(texts), expected, tolerance=1e-2)


def test_no_more_tokens_go_together_than_keep_the_session_busy(build: Any, texts: Any, assert_same: Any) -> None:
    pipe = build()
    expected = pipe(texts)
    pipe._runner.shapes.clear()
    pipe._runner.tokens_at_once = 40
    assert_same(pipe(texts), expected, tolerance=1e-5)
    assert all(rows == 1 or rows * length <= 40 for rows, length in pipe._runner.shapes)


def test_bad_batch_size(build: Any) -> None:
    for size in (0, -1, 2.5, "8", True):
        with pytest.raises(UsageError, match="batch_size"):
            build(batch_size=size)


def test_one_bad_item_fails_before_anything_runs(build: Any) -> None:
    pipe = build()
    with pytest.raises(InputError, match="int"):
        pipe(["fine", 3])
    assert pipe._runner.shapes == []
    assert np.array(pipe._runner.shapes).size == 0
