"""The search with candidates that are made up: what is tried, that it goes on, that a seed repeats it."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from edgeport_export.compression.candidate import FAILED, Candidate
from edgeport_export.compression.search import Search, rounded
from edgeport_export.compression.space import Choice, Space
from edgeport_export.compression.workshop import candidate_name
from edgeport_export.pruning import Prune, Recover
from edgeport_export.quality.outcomes import Loss
from edgeport_export.recipe import Recipe

SPACE = Space(Recipe(calibration="x.txt"), generates=True, sensitive=["a.0", "b.1"])


class _World:
    """Losses and times that follow from the choice; times with noise."""

    def __init__(self, noise: float = 0.0, seed: int = 0, stop_after: int | None = None) -> None:
        self.made: list[Choice] = []
        self._noise, self._random, self._stop_after = noise, random.Random(seed), stop_after

    def evaluate(self, number: int, choice: Choice) -> Candidate:
        if self._stop_after is not None and len(self.made) == self._stop_after:
            raise KeyboardInterrupt
        self.made.append(choice)
        name = candidate_name(SPACE.recipe(choice))
        if choice["method"] == "awq" and choice["block"] == 64:
            return Candidate(number, choice, name, FAILED, "does not work")
        value = {"int8": 0.0, "int4": 1.0}[choice["bits"]] + choice["block"] / 128 - 0.2 * choice["keep"]
        return Candidate(number, choice, name, loss=Loss(value, value, value, 0.95, 9, 9, 100, True), size_bytes=1)

    def measure(self, candidate: Candidate) -> Candidate:
        time = {"int8": 1.0, "int4": 0.6}[candidate.choice["bits"]] * (1 + 0.1 * candidate.choice["keep"])
        return dataclasses.replace(candidate, ratio=1 / (time * (1 + self._noise * self._random.uniform(-1, 1))))


def _search(folder: Path, world: _World, trials: int = 20, jobs: int = 1, seconds: float = 60) -> list[Candidate]:
    folder.mkdir(exist_ok=True)
    search = Search(folder, SPACE, 1, "latency", world.evaluate, world.measure)
    return search.run(trials=trials, until=perf_counter() + seconds, jobs=jobs, say=lambda text: None)


def test_known_good_first_and_nothing_twice(tmp_path: Path) -> None:
    world = _World()
    found = _search(tmp_path, world)
    good = SPACE.known_good()
    assert world.made[: len(good)] == good
    assert len({c.name for c in found}) == len(found) == 20
    assert [c.number for c in found] == list(range(20))


def test_a_seed_makes_the_same_choices_whatever_the_noise(tmp_path: Path) -> None:
    runs = [_search(tmp_path / str(i), _World(0.004, seed=i)) for i in range(2)]
    assert [c.choice for c in runs[0]] == [c.choice for c in runs[1]]


def test_an_interrupted_search_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _search(tmp_path, _World(stop_after=5))
    world = _World()
    found = _search(tmp_path, world)
    assert len(found) == 20
    assert len(world.made) == 15  # five were there
    assert len({c.name for c in found}) == 20
    assert all(choice in [c.choice for c in found] for choice in SPACE.known_good())  # the interrupted one too


def test_a_finished_search_is_not_repeated(tmp_path: Path) -> None:
    first = _search(tmp_path, _World())
    world = _World()
    assert _search(tmp_path, world) == first
    assert not world.made


def test_time_ends_it_after_at_least_one(tmp_path: Path) -> None:
    assert len(_search(tmp_path, _World(), seconds=-1)) == 1


def test_several_at_a_time_are_the_same_candidates(tmp_path: Path) -> None:
    found = _search(tmp_path, _World(), jobs=3, trials=7)
    assert [c.choice for c in found] == SPACE.known_good()[:7]


def test_what_cannot_win_or_would_not_end_is_not_made(tmp_path: Path) -> None:
    world = _World()
    args = tmp_path, SPACE, 1, "latency", world.evaluate, world.measure
    never = Search(*args, hopeless=lambda choice, found: choice["bits"] == "int4")
    until = perf_counter() + 60
    found = never.run(trials=6, until=until, say=lambda text: None)
    assert {c.choice["bits"] for c in found} == {"int8"}
    late = Search(*args, seconds=lambda choice, found: 1e6 if choice["prune"] == "nothing" else 0.0)
    more = late.run(trials=8, until=until, say=lambda text: None)[len(found) :]
    assert more
    assert all(c.choice["prune"] != "nothing" for c in more)


class _Narrow(Space):
    """Six choices, of which keep 1 and 2 are the same where there is one part."""

    @property
    def dimensions(self) -> dict[str, tuple[object, ...]]:
        whole = {"prune": ("nothing",), "recover": (0,), "vocabulary": ("whole",)}
        return {**whole, "precision": ("int8 dynamic",), "tables": (8, 4), "keep": (0, 1, 2)}

    def known_good(self) -> list[Choice]:
        return [{name: values[0] for name, values in self.dimensions.items()}]


def test_optuna_learns_of_what_is_made(tmp_path: Path) -> None:
    short = dataclasses.replace(SPACE, steps=150)
    world = _World()
    search = Search(tmp_path, short, 1, "latency", world.evaluate, world.measure)
    found = search.run(trials=40, until=perf_counter() + 60, say=lambda text: None)
    assert any(c.choice["recover"] == 150 for c in found[len(short.known_good()) :])
    told = [t for t in search._study().get_trials(deepcopy=False) if "candidate" in t.user_attrs]
    assert [t.params for t in told] == [c.choice for c in found]


def test_a_space_that_is_used_up_ends(tmp_path: Path) -> None:
    small = _Narrow(Recipe(), generates=False, sensitive=["a"])

    def evaluate(number: int, choice: Choice) -> Candidate:
        return Candidate(number, choice, candidate_name(small.recipe(choice)), FAILED, "no")

    search = Search(tmp_path, small, 0, "latency", evaluate, lambda c: c)
    assert len(search.run(trials=50, until=perf_counter() + 60, say=lambda text: None)) == 4


def test_choices_become_recipes() -> None:
    space = Space(Recipe(calibration="x.txt"), generates=False, sensitive=["encoder.0.w", "encoder.1.w"])
    whole = {"prune": "nothing", "recover": 300, "vocabulary": "whole"}
    plain = {**whole, "precision": "int8 dynamic", "tables": 8, "keep": 1}
    pruned = {**plain, "prune": "layers=1,flops=0.8", "precision": "int8 static, smooth", "tables": 4, "keep": 2}
    recipe = space.recipe(pruned)
    assert recipe.prune == Prune(layers=1, flops=0.8)
    assert recipe.recover == Recover(steps=300)
    assert space.recipe({**pruned, "recover": 0}).recover is None
    assert space.recipe(plain).recover is None  # nothing to recover from
    assert (recipe.precisions, recipe.quantize, recipe.smooth, recipe.tables) == (("int8",), "static", 0.5, 4)
    assert recipe.keep_fp32 is None  # the layers that stay have other numbers
    kept = space.recipe(plain).keep_fp32
    assert kept is not None
    assert re.search(kept, "encoder.0.w")
    assert not re.search(kept, "encoder.1.w")
    assert not re.search(kept, "encoder.0.wide")
    trimmed = space.recipe({**plain, "vocabulary": "corpus"})
    assert trimmed.prune == Prune(vocabulary="corpus")
    assert trimmed.recover is None
    assert space.recipe({**pruned, "vocabulary": "corpus"}).prune == Prune(layers=1, flops=0.8, vocabulary="corpus")
    written = SPACE.recipe({**SPACE.known_good()[0], "prune": "flops=0.5", "recover": 150, "tables": 4})
    assert (written.prune, written.recover, written.tables) == (Prune(flops=0.5), Recover(steps=150), 4)
    four = space.recipe({**plain, "precision": "int4"})
    assert (four.precisions, four.method, four.quantize) == (("int4",), "hqq", "dynamic")


@pytest.mark.parametrize("generates", [False, True])
@pytest.mark.parametrize("plain", ["int8", "fp16", "fp32"])
@pytest.mark.parametrize("minimize", ["latency", "size"])
def test_what_is_tried_first_is_in_the_space(generates: bool, plain: str, minimize: str) -> None:
    recipe = Recipe(calibration="x.txt")
    space = Space(recipe, generates=generates, sensitive=["a"], steps=600, minimize=minimize, plain=plain)
    for choice in space.known_good():
        assert all(value in space.dimensions[name] for name, value in choice.items())
        assert set(choice) == set(space.dimensions)
    first = space.recipe(space.known_good()[0])
    assert first.precisions == (plain,)
    assert not generates or first.method == "rtn"


def test_what_comes_first_depends_on_what_is_minimized_and_on_the_time_there_is() -> None:
    def good(**more: Any) -> list[Choice]:
        return Space(Recipe(calibration="x.txt"), generates=False, sensitive=[], **more).known_good()

    assert {c["vocabulary"] for c in good()} == {"whole"}
    assert "corpus" in {c["vocabulary"] for c in good(minimize="size")[:2]}
    assert all(c["recover"] == 0 for c in good())
    for steps, first in ((150, 150), (600, 600), (1200, 600), (2400, 1200)):
        assert next(c["recover"] for c in good(steps=steps) if c["prune"] != "nothing") == first
        assert max(c["recover"] for c in good(steps=steps)) == steps


def test_near_times_are_rounded_alike() -> None:
    assert rounded(1.0) == rounded(1.01)
    assert rounded(1.0) < rounded(1.1)
    assert rounded(float("inf")) > 1e6
