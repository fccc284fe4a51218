"""A tiny Llama through the compression: cut, taught by the original, in fewer bits, timed and shipped."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import edgeport
import pytest
from conftest import TinyWriter
from edgeport_export import CompressOptions, compress
from edgeport_export.compression import setup, stopwatch, workshop

WORDS = ["the", "boat", "has", "left", "a", "harbour", "and", "we", "all", "saw", "it", "go", "over", "water"]


def test_a_writer_is_cut_and_taught_once(
    tiny_writer: TinyWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(0)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(" ".join(chance.choices(WORDS, k=12)) for _ in range(400)), encoding="utf-8")
    monkeypatch.setattr(setup, "_steps", lambda step, options: 150)
    cuts: list[Any] = []
    cut, together = workshop.prune, stopwatch.Stopwatch.all_together

    def counted(source: Any, recipe: Any, progress: Any) -> None:
        cuts.append(recipe.prune)
        cut(source, recipe, progress)

    def forgetful(watch: stopwatch.Stopwatch, *args: Any) -> Any:
        watch.workshop._prepared.clear()  # a long search has let go of it: what is on disk has to do
        return together(watch, *args)

    monkeypatch.setattr(workshop, "prune", counted)
    monkeypatch.setattr(stopwatch.Stopwatch, "all_together", forgetful)
    for name in ("_SECONDS", "_FINAL_SECONDS"):
        monkeypatch.setattr(stopwatch, name, 0.1)
    result = compress(tiny_writer.original, tmp_path / "small", CompressOptions(str(texts), budget=90.0, trials=4))
    plain, four, taught, both = result.report["candidates"]
    assert [c["status"] for c in result.report["candidates"]] == ["complete"] * 4
    assert (plain["choice"]["bits"], four["choice"]["bits"]) == ("int8", "int4")
    assert (taught["choice"]["prune"], taught["choice"]["recover"]) == ("flops=0.5", 150)
    assert both["choice"] == {**four["choice"], "prune": "flops=0.5", "recover": 150}
    assert both["size_bytes"] < min(taught["size_bytes"], four["size_bytes"])
    assert len(cuts) == 1
    # Random weights say nothing, and learning from the text says what its words are.
    assert taught["loss"]["value"] < plain["loss"]["value"] - 10
    for variant in ("small", "fp32"):  # which has heads that the other has not
        with edgeport.load(result.path, variant=variant) as pipe:
            assert pipe("the boat", max_new_tokens=8)[0]["generated_text"].startswith("the boat")
