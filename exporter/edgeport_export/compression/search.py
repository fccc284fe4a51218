"""The search: known-good choices first, then what Optuna proposes (Parzen estimators, two objectives).

Every finished candidate is in the study's journal on disk, so that an interrupted search goes on where it was. What
Optuna learns from is rounded: times differ by some per cent from run to run, and a proposal must not hang on that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from edgeport_export.compression.candidate import COMPLETE, FAILED, Candidate
from edgeport_export.compression.space import Choice, Space
from edgeport_export.compression.workshop import candidate_name

__all__ = ["NOISE", "Search", "rounded"]

NOISE = 0.05
"""Times that are nearer to each other than this share count as equal."""
_WORST = 1e9
"""In the place of what was not measured."""
_REPEATS = 40
"""Proposals of what was tried already, before the search gives up."""


@dataclass
class Search:
    """A search in a folder."""

    folder: Path
    space: Space
    seed: int
    minimize: str
    evaluate: Callable[[int, Choice], Candidate]
    """Makes and scores; may run in another process."""
    measure: Callable[[Candidate], Candidate]
    """Adds what is measured one at a time: times, memory."""
    hopeless: Callable[[Choice, Sequence[Candidate]], bool] = lambda choice, found: False
    """Whether a choice cannot win any more, after those that were found: it is not made."""
    seconds: Callable[[Choice, Sequence[Candidate]], float] = lambda choice, found: 0.0
    """What a choice takes, about, after those that were found: what would not end in time is not begun."""

    def run(
        self, *, trials: int, until: float, jobs: int = 1, pool: Executor | None = None, say: Callable[[str], None]
    ) -> list[Candidate]:
        """Try until ``trials`` candidates are there or the clock (``perf_counter``) says ``until``.

        Args:
            trials: Those of an earlier run count.
            until: What has begun is brought to its end.
            jobs: Candidates that are made at a time.
            pool: Where they are made; None for this process.
            say: Is told what is tried.

        Returns:
            All candidates, in the order in which they were begun.
        """
        study = self._study()
        found = self.finished(study)
        known = {candidate.name for candidate in found}
        for choice in self.space.known_good():
            if candidate_name(self.space.recipe(choice)) not in known:
                study.enqueue_trial(dict(choice))
        while len(found) < trials and (perf_counter() < until or not found):
            asked = list(self._ask(study, min(jobs, trials - len(found)), known, found, until))
            if not asked:
                break
            say(f"candidate {len(found) + 1} of at most {trials}, {_minutes(until)}{_best(found, self.minimize)}")
            numbers = range(len(found), len(found) + len(asked))
            choices = [choice for _, choice in asked]
            made = (pool.map if pool else map)(self.evaluate, numbers, choices)
            # All are made before the first is timed: nothing else may run meanwhile.
            for (trial, _), candidate in zip(asked, list(made), strict=True):
                done = self.measure(candidate) if candidate.status == COMPLETE else candidate
                self._tell(study, trial, done)
                found.append(done)
        return found

    def finished(self, study: optuna.Study | None = None) -> list[Candidate]:
        """The candidates of earlier runs."""
        study = study or self._study()
        stored = (trial.user_attrs.get("candidate") for trial in study.get_trials(deepcopy=False))
        return [Candidate.from_dict(json.loads(text)) for text in stored if text is not None]

    def _study(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = JournalStorage(JournalFileBackend(str(self.folder / "study.journal")))
        study = optuna.create_study(
            study_name="compress", storage=storage, directions=["minimize", "minimize"], load_if_exists=True
        )
        done = len(study.get_trials(deepcopy=False))
        for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # it was interrupted
        study.sampler = optuna.samplers.TPESampler(
            seed=self.seed + done, n_startup_trials=len(self.space.known_good()), multivariate=True
        )
        return study

    def _ask(
        self, study: optuna.Study, count: int, known: set[str], found: Sequence[Candidate], until: float
    ) -> Iterator[tuple[optuna.Trial, Choice]]:
        """New choices, ``count`` at most; what was tried already, cannot win or takes too long is passed over."""
        repeats = 0
        while count and repeats < _REPEATS:
            trial = study.ask()
            asked = {name: trial.suggest_categorical(name, values) for name, values in self.space.dimensions.items()}
            choice = self.space.affordable(asked)
            name = candidate_name(self.space.recipe(choice))
            late = found and perf_counter() + self.seconds(choice, found) > until
            if name in known or late or self.hopeless(choice, found):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                repeats += 1
                continue
            if choice != asked:  # what was asked costs more than there is time for: Optuna is to learn of what is made
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                study.enqueue_trial(dict(choice))
                continue
            known.add(name)
            count -= 1
            yield trial, choice

    def _tell(self, study: optuna.Study, trial: optuna.Trial, candidate: Candidate) -> None:
        trial.set_user_attr("candidate", json.dumps(candidate.to_dict()))
        if candidate.status == FAILED or candidate.loss is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        study.tell(trial, [candidate.loss.value, rounded(candidate.objective(self.minimize))])


def rounded(value: float) -> float:
    """The nearest of a row of values that are 5 % apart."""
    return _WORST if not math.isfinite(value) else math.exp(round(math.log(max(value, 1e-9)) / NOISE) * NOISE)


def _minutes(until: float) -> str:
    left = max(0.0, until - perf_counter())
    return f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left"


def _best(found: Sequence[Candidate], minimize: str) -> str:
    timed = [c for c in found if c.ratio is not None and c.loss is not None]
    if not timed:
        return ""
    best = min(timed, key=lambda c: (c.objective(minimize), c.number))
    assert best.loss is not None
    return f"; best so far {best.ratio:.2f} x the plain export at a loss of {best.loss.value:.2f}"
