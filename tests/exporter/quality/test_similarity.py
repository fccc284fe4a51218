"""Scores against scikit-learn and scipy, and the sample that comes along."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import edgeport
import numpy as np
import pytest
from edgeport.errors import UsageError
from edgeport_export.quality.similarity import Pair, parse_pairs, read_sample, score, spearman
from scipy.stats import kendalltau, rankdata
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics.pairwise import cosine_similarity

SHARED = Path(__file__).parents[4] / "shared" / "data" / "sts_ccbysa"


def _bag_of_words(texts: list[str]) -> np.ndarray:
    return CountVectorizer().fit_transform(texts).toarray()


def test_score_is_the_correlation_of_ranks() -> None:
    pairs = read_sample()
    firsts, seconds = [p.first for p in pairs], [p.second for p in pairs]
    counts = CountVectorizer().fit([*firsts, *seconds])
    cosine = cosine_similarity(counts.transform(firsts), counts.transform(seconds)).diagonal()
    ranks = rankdata(cosine), rankdata([p.score for p in pairs])
    wanted = 100 * np.corrcoef(*ranks)[0, 1]
    assert score(_bag_of_words, pairs) == pytest.approx(wanted, abs=0.05)  # rounding breaks ties
    assert 20 < wanted < 95  # words alone tell much, and not all
    assert np.sign(kendalltau(*ranks).statistic) == 1


def test_score_of_a_pipeline(tiny_bundle: Path) -> None:
    with edgeport.load(tiny_bundle, variant="fp32") as pipe:
        assert -100 <= score(pipe, read_sample()) <= 100


def test_scale_does_not_matter_and_order_does() -> None:
    wanted = [1.0, 2.0, 3.0, 4.0]
    assert spearman([0.1, 0.2, 0.21, 0.9], wanted) == pytest.approx(100.0)
    assert spearman([0.9, 0.21, 0.2, 0.1], wanted) == pytest.approx(-100.0)


def test_a_single_pair_has_no_rank() -> None:
    with pytest.raises(UsageError, match="too few"):
        spearman([1.0], [1.0])


def test_lines_without_a_score_are_left_out() -> None:
    assert parse_pairs("1.5\ta\tb\r\n\tc\td\n\n0\te\tf\n", "x") == [Pair(1.5, "a", "b"), Pair(0.0, "e", "f")]


@pytest.mark.parametrize("line", ["3\ta", "high\ta\tb", "3\ta\tb\tc"])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(UsageError, match=r"line 2 of .*x\.tsv"):
        parse_pairs(f"1\ta\tb\n{line}\n", "x.tsv")


def test_sample_is_inside_the_package_with_its_licence() -> None:
    pairs = read_sample()
    assert len(pairs) == 250
    assert all(0 <= p.score <= 5 and p.first and p.second for p in pairs)
    assert len({p.score for p in pairs}) > 10
    notice = (files("edgeport_export") / "data" / "README.md").read_text(encoding="utf-8")
    assert all(words in notice for words in ("CC BY-SA", "Agirre", "Rashtchian", "every sixth"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the full test sets are not here")
def test_sample_is_every_sixth_row() -> None:
    files = [SHARED / f"{year}.images.test.tsv" for year in (2014, 2015)]
    full = [parse_pairs(file.read_text(encoding="utf-8"), file.name)[::6] for file in files]
    assert read_sample() == full[0] + full[1]
