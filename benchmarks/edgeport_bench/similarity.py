"""The quality of sentence embeddings: Spearman correlation of their cosine with people's judgement.

``python -m edgeport_bench.similarity BUNDLE [TSV ...]`` prints it for every variant. Knows no bundle's insides:
anything that turns a list of texts into an array of vectors can be scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from edgeport.errors import UsageError

__all__ = ["Embed", "Pair", "cosines", "parse_pairs", "read_pairs", "read_sample", "score", "spearman"]

Embed = Callable[[list[str]], npt.NDArray[Any]]
"""Texts to (texts, dimensions)."""


@dataclass(frozen=True)
class Pair:
    """Two texts, and how similar people found them; any scale will do, larger is more similar."""

    score: float
    first: str
    second: str


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of a TSV file: score, first, second; lines without a score are left out.

    Raises:
        UsageError: there is no such file, or a line is something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{str(path)!r} cannot be read ({e}): give a UTF-8 file of score, text and text.") from e
    return parse_pairs(text, str(path))


def read_sample() -> list[Pair]:
    """The labelled pairs that come with this package: image captions, see data/README.md."""
    name = "sts_images_sample.tsv"
    return parse_pairs((files("edgeport_bench") / "data" / name).read_text(encoding="utf-8"), name)


def parse_pairs(text: str, name: str) -> list[Pair]:
    """The pairs in ``text``; ``name`` is what messages call it."""
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.rstrip("\r").split("\t")
        if not fields[0].strip():
            continue
        try:
            score, first, second = fields
            pairs.append(Pair(float(score), first, second))
        except ValueError as e:
            raise UsageError(f"line {number} of {name} is not score, text and text, tabs between: {line!r:.80}.") from e
    return pairs


def score(embed: Embed, pairs: Sequence[Pair]) -> float:
    """Spearman correlation times 100 between the cosine of the embeddings and the pairs' scores."""
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)))
    row = {text: i for i, text in enumerate(texts)}
    vectors = np.asarray(embed(texts), dtype=np.float64)
    first, second = vectors[[row[p.first] for p in pairs]], vectors[[row[p.second] for p in pairs]]
    return spearman(cosines(first, second), [p.score for p in pairs])


def cosines(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Cosine of each row of ``a`` with the same row of ``b``; both (rows, dimensions)."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result: npt.NDArray[np.float64] = (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
    return result


def spearman(found: Sequence[float] | npt.NDArray[Any], wanted: Sequence[float]) -> float:
    """Rank correlation times 100.

    Raises:
        UsageError: fewer than two pairs.
    """
    from scipy.stats import spearmanr  # takes a second to import, and only scoring needs it

    if len(wanted) < 2:
        raise UsageError(f"{len(wanted)} labelled pairs are too few to rank: give at least two.")
    return 100 * float(spearmanr(found, wanted).statistic)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the score of every variant of a bundle."""
    import edgeport

    parser = argparse.ArgumentParser(prog="python -m edgeport_bench.similarity", description=main.__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("files", type=Path, nargs="*", metavar="TSV", help="default: the sample in this package")
    args = parser.parse_args(argv)
    sets = {path.name: read_pairs(path) for path in args.files} or {"sample": read_sample()}
    for variant in edgeport.Bundle.open(args.bundle).manifest.variants:
        with edgeport.load(args.bundle, variant=variant) as pipe:
            for name, pairs in sets.items():
                print(f"{variant}\t{name}\t{len(pairs)} pairs\t{score(pipe, pairs):.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
