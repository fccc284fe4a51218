"""Candidates' times: each beside the plain export in turn, and at the end all that count in one run.

They are measured here, or, for another machine, estimated from what operators take here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from edgeport.bundle import Bundle
from edgeport.errors import ExportError
from edgeport.session import usable_threads
from tokenizers import Tokenizer

from edgeport_export.compression.estimate import Estimator, record
from edgeport_export.compression.feeds import Feeds
from edgeport_export.compression.target import Target
from edgeport_export.compression.timing import Timed, ratio_of, take_turns
from edgeport_export.compression.workshop import SMALL, Workshop, graph_of
from edgeport_export.decoder_runner import DecoderRunner
from edgeport_export.graph_io import OpenBy, return_freed_memory
from edgeport_export.profile import measure_machine
from edgeport_export.samples import Batch

__all__ = ["AGAIN", "PLAIN", "TORCH", "Stopwatch", "peak_memory"]

TORCH = "torch fp32"
"""The original as it is, on the CPU."""
PLAIN, AGAIN = "plain export", "plain export again"
"""The export without a search, and the same once more."""
_TURNS, _SECONDS = 25, 30.0
"""Beside each candidate, at most."""
_FINAL_TURNS, _FINAL_SECONDS = 41, 60.0
_NEW_TOKENS = 16
"""Tokens that a model writes after each prompt; the time is that of all of them."""
_THINNED = 4
"""One of so many prompts is recorded: onnxruntime notes each operator of each token, 500 bytes a time."""


@dataclass
class Stopwatch:
    """Times the variants of one model on one set of batches."""

    workshop: Workshop
    feeds: Feeds
    original: Path
    target: Target
    threads: int | None = None
    """Of the processor that the model is for; None for all of this one's."""
    baseline: list[Timed] = field(default_factory=list)
    """The plain export's times beside each candidate: how far the machine drifted."""
    _factors: dict[tuple[Path, str], float] = field(default_factory=dict)

    @property
    def plain(self) -> str:
        """The variant that is exported without a search; fp32 stands in where that was refused."""
        made = Bundle.open(self.original).manifest.variants
        return self.target.plain if self.target.plain in made else "fp32"

    def beside_baseline(self, bundle: Path) -> tuple[float, Timed]:
        """How many times as fast as the plain export a candidate is, and its own times."""
        models = {PLAIN: self._reads(self.original, self.plain), SMALL: self._reads(bundle, SMALL)}
        times = take_turns(models, turns=_TURNS, seconds=_SECONDS)
        del models
        times = self.elsewhere(times, bundle) or times
        self.baseline.append(times[PLAIN])
        return ratio_of(times[PLAIN], times[SMALL]).value, times[SMALL]

    def elsewhere(self, times: Mapping[str, Timed], bundle: Path) -> dict[str, Timed]:
        """What the ONNX graphs among ``times`` would take on the machine that was described; empty where none was."""
        if self._estimator is None:
            return {}
        which = {"fp32": (self.original, "fp32"), PLAIN: (self.original, self.plain), SMALL: (bundle, SMALL)}
        return {name: times[name].times(self._factor(*which[name])) for name in which if name in times}

    def all_together(self, bundle: Path, say: Callable[[str], None] = lambda doing: None) -> dict[str, Timed]:
        """The original in torch and in fp32, the plain export twice, and ``bundle``'s variant, in one run here.

        The second plain one is the same graph as the first: what the two differ by is the run's noise.
        """
        models: dict[str, list[Callable[[], object]]] = {
            TORCH: [partial(self._torch(), batch) for batch in self.feeds.batches],
            "fp32": self._reads(self.original, "fp32"),
            PLAIN: self._reads(self.original, self.plain),
            SMALL: self._reads(bundle, SMALL),
            AGAIN: self._reads(self.original, self.plain),
        }
        with _torch_threads(self.threads):
            times = take_turns(models, turns=_FINAL_TURNS, seconds=_FINAL_SECONDS, say=say)
        del models
        return_freed_memory()
        return times

    @cached_property
    def _estimator(self) -> Estimator | None:
        there = self.target.machine
        return None if there is None else Estimator(measure_machine(self.threads or usable_threads()), there)

    def _factor(self, bundle: Path, variant: str) -> float:
        assert self._estimator is not None
        if (bundle, variant) not in self._factors:
            step = _THINNED if self.workshop.source.task.generates else 1
            ran = record(graph_of(bundle, variant), lambda profile: self._reads(bundle, variant, profile)[::step])
            self._factors[bundle, variant] = self._estimator.factor(ran)
        return self._factors[bundle, variant]

    def _reads(self, bundle: Path, variant: str, profile: Path | None = None) -> list[Callable[[], object]]:
        """A turn of a bundle's variant: each batch, in the tokens of its own vocabulary."""
        opened, batches = Bundle.open(bundle), self.feeds.batches
        if "vocabulary" in opened.manifest.pruning:
            text = opened.manifest.text
            assert text is not None
            batches = self.feeds.read_by(Tokenizer.from_file(str(opened.path(text.tokenizer))))
        how = OpenBy(self.threads, self.target.provider, profile)
        run = self.workshop.runner(bundle, variant, how)
        if not isinstance(run, DecoderRunner):
            return [partial(run, batch) for batch in batches]
        return [partial(run.write, batch["input_ids"][0].tolist(), _NEW_TOKENS) for batch in batches]

    def _torch(self) -> Callable[[Batch], object]:
        if not self.workshop.source.task.generates:
            return self.workshop.head.run
        model = self.workshop.source.model

        def write(batch: Batch) -> Any:
            tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
            with torch.inference_mode():
                return model.generate(
                    **tensors, do_sample=False, min_new_tokens=_NEW_TOKENS, max_new_tokens=_NEW_TOKENS
                )

        return write


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_MEASURE = """
import json, sys, edgeport
from edgeport.session.memory import peak_rss
texts = json.loads(sys.stdin.read())
with edgeport.load(sys.argv[1], variant=sys.argv[2], providers=sys.argv[3]) as pipe:
    for text in texts:
        pipe(text)
    print(peak_rss() or 0)
"""


def peak_memory(bundle: Path, variant: str, provider: str, inputs: Sequence[Any]) -> int:
    """Most bytes that a process takes which loads the variant and answers ``inputs`` one by one.

    Raises:
        ExportError: it does not run.
    """
    import json

    command = [sys.executable, "-c", _MEASURE, str(bundle), variant, provider]
    done = subprocess.run(command, input=json.dumps(list(inputs)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"{variant} does not run in a process of its own ({done.stderr.strip()[-200:]}).")
    return int(done.stdout.split()[-1])
