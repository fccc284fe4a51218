"""Candidates' times on this machine: each beside plain int8 in turn, and at the end all that count in one run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from edgeport.bundle import Bundle
from edgeport.errors import ExportError
from tokenizers import Tokenizer

from edgeport_export.compression.feeds import Feeds
from edgeport_export.compression.timing import Timed, ratio_of, take_turns
from edgeport_export.compression.workshop import SMALL, Workshop
from edgeport_export.decoder_runner import DecoderRunner
from edgeport_export.graph_io import return_freed_memory
from edgeport_export.samples import Batch

__all__ = ["BASELINE", "Stopwatch", "peak_memory"]

BASELINE = "int8"
_TURNS, _SECONDS = 25, 30.0
"""Beside each candidate, at most."""
_FINAL_TURNS, _FINAL_SECONDS = 41, 60.0
_NEW_TOKENS = 16
"""Tokens that a model writes after each prompt; the time is that of all of them."""


@dataclass
class Stopwatch:
    """Times the variants of one model on one set of batches."""

    workshop: Workshop
    feeds: Feeds
    original: Path
    threads: int | None = None
    """Of the processor that the model is for; None for all of this one's."""
    baseline: list[Timed] = field(default_factory=list)
    """Plain int8's times beside each candidate: how far the machine drifted."""

    def beside_baseline(self, bundle: Path) -> tuple[float, Timed]:
        """How many times as fast as plain int8 a candidate is, and its own times."""
        models = {
            BASELINE: self._reads(self.original, self._baseline),
            SMALL: self._reads(bundle, SMALL),
        }
        times = take_turns(models, turns=_TURNS, seconds=_SECONDS)
        self.baseline.append(times[BASELINE])
        return ratio_of(times[BASELINE], times[SMALL]).value, times[SMALL]

    def all_together(self, bundle: Path, say: Callable[[str], None] = lambda doing: None) -> dict[str, Timed]:
        """The original in torch and in fp32, plain int8 twice, and ``bundle``'s variant, in one run.

        The second int8 is the same graph as the first: what the two differ by is the run's noise.
        """
        models: dict[str, list[Callable[[], object]]] = {
            "torch fp32": [partial(self._torch(), batch) for batch in self.feeds.batches],
            "fp32": self._reads(self.original, "fp32"),
            BASELINE: self._reads(self.original, self._baseline),
            SMALL: self._reads(bundle, SMALL),
            f"{BASELINE} again": self._reads(self.original, self._baseline),
        }
        with _torch_threads(self.threads):
            times = take_turns(models, turns=_FINAL_TURNS, seconds=_FINAL_SECONDS, say=say)
        del models
        return_freed_memory()
        return times

    @property
    def _baseline(self) -> str:
        """fp32 stands in where int8 was refused."""
        return BASELINE if BASELINE in Bundle.open(self.original).manifest.variants else "fp32"

    def _reads(self, bundle: Path, variant: str) -> list[Callable[[], object]]:
        """A turn of a bundle's variant: each batch, in the tokens of its own vocabulary."""
        opened, batches = Bundle.open(bundle), self.feeds.batches
        if "vocabulary" in opened.manifest.pruning:
            text = opened.manifest.text
            assert text is not None
            batches = self.feeds.read_by(Tokenizer.from_file(str(opened.path(text.tokenizer))))
        run = self.workshop.runner(bundle, variant, self.threads)
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
with edgeport.load(sys.argv[1], variant=sys.argv[2]) as pipe:
    for text in texts:
        pipe(text)
    print(peak_rss() or 0)
"""


def peak_memory(bundle: Path, variant: str, inputs: Sequence[Any]) -> int:
    """Most bytes that a process takes which loads the variant and answers ``inputs`` one by one.

    Raises:
        ExportError: it does not run.
    """
    import json

    command = [sys.executable, "-c", _MEASURE, str(bundle), variant]
    done = subprocess.run(command, input=json.dumps(list(inputs)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"{variant} does not run in a process of its own ({done.stderr.strip()[-200:]}).")
    return int(done.stdout.split()[-1])
