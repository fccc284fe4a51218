"""Metrics by row against the libraries' own, and the loss's interval against scipy's bootstrap."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from edgeport.errors import UsageError
from edgeport_export.quality import SCORERS
from edgeport_export.quality.answers import exact_match, word_f1
from edgeport_export.quality.outcomes import Called, Outcomes, RankCorrelation, Sums, loss_interval, mean_of
from scipy.stats import bootstrap, spearmanr
from sklearn.metrics import f1_score

RNG = np.random.default_rng(0)
LABELS = tuple("abcdef")
TAGS = ("O", "B-X", "I-X", "B-Y", "I-Y")


def _manifest(labels: tuple[str, ...], function: str = "softmax") -> SimpleNamespace:
    return SimpleNamespace(manifest=SimpleNamespace(labels=labels, task_options={"function_to_apply": function}))


class _Scripted:
    """Answers from a list, whatever it is asked."""

    def __init__(self, answers: Any, bundle: Any = None) -> None:
        self.answers, self.bundle = answers, bundle

    def __call__(self, inputs: Any, **options: Any) -> Any:
        assert len(inputs) == len(self.answers)
        return self.answers

    def logprobs(self, text: str, *, window: int | None) -> np.ndarray:
        return np.random.default_rng(len(text)).normal(-2, 1, len(text)).astype(np.float32)


class _Tagger:
    def __call__(self, sentences: list[list[str]], **options: Any) -> list[list[dict[str, Any]]]:
        rng = np.random.default_rng(1)
        return [[{"start": 2 * i, "entity": rng.choice(TAGS)} for i in range(len(words))] for words in sentences]


def _cases() -> dict[str, tuple[str, Any, list[dict[str, Any]]]]:
    one = [{"label": str(label)} for label in RNG.choice(LABELS, 60)]
    flags = [[{"label": label, "score": float(RNG.random())} for label in LABELS] for _ in range(40)]
    numbers = [{"label": "x", "score": float(s)} for s in RNG.normal(size=50)]
    classify = "text-classification"
    queries = [f"q{i // 5}" for i in range(60)]
    return {
        "one label": (
            classify,
            _Scripted(one, _manifest(LABELS)),
            [{"text": "", "label": str(label)} for label in RNG.choice(LABELS[:5], 60)],
        ),
        "several labels": (
            classify,
            _Scripted(flags, _manifest(LABELS, "sigmoid")),
            [{"text": "", "label": [str(c) for c in LABELS if RNG.random() < 0.4]} for _ in range(40)],
        ),
        "numbers": (
            classify,
            _Scripted(numbers, _manifest(("x",), "none")),
            [{"text": "", "label": str(a["score"] + RNG.normal())} for a in numbers],
        ),
        "entities": (
            "token-classification",
            _Tagger(),
            [{"tokens": ["w"] * 12, "tags": [str(t) for t in RNG.choice(TAGS, 12)]} for _ in range(30)],
        ),
        "ranking": (
            "text-ranking",
            _Scripted(RNG.normal(size=60)),
            [{"query": q, "text": "", "score": int(RNG.integers(3))} for q in queries],
        ),
        "perplexity": ("text-generation", _Scripted([]), [{"text": "x" * n} for n in range(5, 30)]),
    }


CASES = _cases()


@pytest.mark.parametrize("case", CASES)
def test_outcomes_are_the_library_s_figures(case: str) -> None:
    task, pipe, rows = CASES[case]
    outcomes = SCORERS[task].outcomes(pipe, rows)
    figures = SCORERS[task].score(pipe, rows)
    assert next(iter(outcomes)) == next(iter(figures))  # the metric that decides
    for name, found in outcomes.items():
        value = found.values(np.arange(len(found))[None])[0]
        assert value == pytest.approx(figures[name], abs=1e-9), name


def test_macro_f1_of_a_draw_is_scikit_learn_s() -> None:
    task, pipe, rows = CASES["one label"]
    macro = SCORERS[task].outcomes(pipe, rows)["macro F1"]
    draw = RNG.integers(len(rows), size=len(rows))
    wanted, found = ([side[i]["label"] for i in draw] for side in (rows, pipe.answers))
    assert macro.values(draw[None])[0] == pytest.approx(100 * f1_score(wanted, found, average="macro", zero_division=0))


def test_spearman_of_a_draw_is_scipy_s() -> None:
    a, b = RNG.normal(size=40).round(1), RNG.integers(5, size=40).astype(float)
    draw = RNG.integers(40, size=40)
    wanted = 100 * spearmanr(a[draw], b[draw]).statistic
    assert RankCorrelation(a, b).values(draw[None])[0] == pytest.approx(wanted)


def test_squad_s_words() -> None:
    assert exact_match("The Big, house!", "a big house") == 1
    assert word_f1("the big red house", "a big house") == pytest.approx(2 * 2 / 5)
    assert word_f1("", "the") == 1
    assert word_f1("", "house") == 0


def test_the_best_of_several_answers_counts() -> None:
    rows = [
        {"question": "q", "context": "c", "answers": {"text": ["red", "a red house"], "answer_start": [0, 0]}},
        {"question": "q", "context": "c", "answers": "blue"},
    ]
    pipe = _Scripted([{"answer": "red house"}, {"answer": "green"}])
    assert SCORERS["question-answering"].score(pipe, rows) == {"F1": 50.0, "exact match": 50.0}
    with pytest.raises(UsageError, match="answers are 3"):
        SCORERS["question-answering"].score(pipe, [{"question": "q", "context": "c", "answers": 3}])


def test_a_query_in_which_nothing_fits_says_nothing() -> None:
    rows = [{"query": "q", "text": "t", "score": "0"}] * 2
    with pytest.raises(UsageError, match="no query has both"):
        SCORERS["text-ranking"].score(_Scripted([1.0, 2.0]), rows)


def _pair(kind: str) -> tuple[Outcomes, Outcomes]:
    if kind == "accuracy":
        before = RNG.random(300) < 0.9
        return mean_of(before), mean_of(np.where(RNG.random(300) < 0.1, RNG.random(300) < 0.5, before))
    if kind == "perplexity":
        counts = RNG.integers(20, 80, 200).astype(float)
        logs = -3 * counts + RNG.normal(size=200)

        def combine(sums: np.ndarray) -> np.ndarray:
            return np.exp(-sums[:, 0] / sums[:, 1])

        worse = logs - 0.05 * counts + RNG.normal(size=200)
        return tuple(Sums(np.stack([side, counts], axis=1), combine, relative=True) for side in (logs, worse))
    wanted = RNG.normal(size=200)
    before = wanted + RNG.normal(size=200)
    return RankCorrelation(before, wanted), RankCorrelation(before + 0.3 * RNG.normal(size=200), wanted)


@pytest.mark.parametrize("kind", ["accuracy", "perplexity", "spearman"])
def test_the_interval_is_scipy_s(kind: str) -> None:
    before, after = _pair(kind)
    loss = loss_interval(before, after, seed=1)

    def statistic(rows: np.ndarray, axis: int = -1) -> np.ndarray:
        draws = np.atleast_2d(rows)
        a, b = before.values(draws), after.values(draws)
        result = 100 * (b / a - 1) if kind == "perplexity" else a - b
        return result if rows.ndim > 1 else result[0]

    found = bootstrap(
        (np.arange(len(before)),), statistic, method="percentile", n_resamples=2000, vectorized=True, rng=5
    )
    low, high = found.confidence_interval
    width = high - low
    assert loss.low == pytest.approx(low, abs=0.12 * width)
    assert loss.high == pytest.approx(high, abs=0.12 * width)
    assert loss.low < loss.value < loss.high
    assert loss.value == pytest.approx(float(statistic(np.arange(len(before)))))
    assert loss == loss_interval(before, after, seed=1)


def test_equal_models_on_few_rows_prove_little() -> None:
    few, many = (mean_of(np.ones(n)) for n in (30, 3000))
    assert loss_interval(few, few).value == 0
    assert loss_interval(few, few).high > 10  # 30 rows without a miss still allow one loss in ten
    assert loss_interval(many, many).high < 0.15


def test_a_metric_of_one_s_own() -> None:
    def share(answers: list[Any], rows: list[Any]) -> float:
        return 100 * float(np.mean([a == r["label"] for a, r in zip(answers, rows, strict=True)]))

    rows = [{"label": i % 3} for i in range(90)]
    before = Called(share, [r["label"] for r in rows], rows)
    after = Called(share, [0 if i % 9 == 0 else r["label"] for i, r in enumerate(rows)], rows)
    assert loss_interval(before, after).value == pytest.approx(0)  # i % 9 == 0 has the label 0 anyway
    worse = Called(share, [0 if i % 9 == 1 else r["label"] for i, r in enumerate(rows)], rows)
    loss = loss_interval(before, worse)
    assert loss.value == pytest.approx(100 / 9)
    assert loss.low < 100 / 9 < loss.high
