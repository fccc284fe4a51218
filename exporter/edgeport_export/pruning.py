"""What is cut out of a model or made zero, and how it recovers: parts of a recipe, and how a shell writes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeport.errors import UsageError

from edgeport_export.allowed import one_of

__all__ = ["CORPUS", "IMPORTANCES", "SPARSIFIERS", "Prune", "Recover", "Sparsity", "rows_a_step"]

_TOKENS = 512
"""Of a step of distillation, where its rows are not given: it then takes about the same whatever their length."""
_LEAST_ROWS, _MOST_ROWS = 8, 64
"""Of a step. Of a text that is written every token is something to learn, so that one row will do."""
IMPORTANCES = ("fisher", "wanda", "magnitude", "random")
SPARSIFIERS = ("sparsegpt", "wanda", "magnitude")
CORPUS = "corpus"
"""In the place of a share of the vocabulary: what the calibration rows use."""


@dataclass(frozen=True)
class Prune:
    """What is cut out of the model before it is captured, so that the graph is smaller and dense.

    Raises:
        UsageError: a value is not allowed, or nothing is to be cut.
    """

    heads: float = 0.0
    """Share of the attention heads that go, the least important of all layers first."""
    ffn: float = 0.0
    """Share of the neurons of the feed-forward layers that go."""
    flops: float | None = None
    """Share of the layers' arithmetic that stays; heads and neurons to go for it are searched."""
    latency: float | None = None
    """Share of the layers' time on this machine that stays, measured for a row of the samples' length."""
    layers: int | tuple[str, ...] = 0
    """Whole layers that go: how many, those that change the outputs least; or their names."""
    vocabulary: float | str | None = None
    """Tokens that stay: ``corpus``, those that the calibration rows use; or a share of all, the most frequent there.
    Special tokens and single characters stay either way."""
    importance: str = "fisher"
    reconstruct: bool = True
    """Refit what reads the heads and neurons that stay, by least squares."""
    samples: int = 1024
    """Rows of the calibration file, at most."""

    def __post_init__(self) -> None:
        for name in ("heads", "ffn"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(
                    f"prune {name}={getattr(self, name)}: it is the share to remove, at least 0 and below 1."
                )
        for name in ("flops", "latency"):
            kept = getattr(self, name)
            if kept is not None and not 0 < kept < 1:
                raise UsageError(f"prune {name}={kept}: it is the share to keep, above 0 and below 1.")
        if sum((self.heads > 0 or self.ffn > 0, self.flops is not None, self.latency is not None)) > 1:
            raise UsageError(
                "prune takes heads and ffn, or flops, or latency: the last two find the shares themselves."
            )
        if not (self.vocabulary in (None, CORPUS) or (isinstance(self.vocabulary, float) and 0 < self.vocabulary < 1)):
            raise UsageError(
                f"prune vocabulary={self.vocabulary}: it is 'corpus', for the tokens that the rows of --calibration "
                "use, or the share of tokens to keep, above 0 and below 1."
            )
        if isinstance(self.layers, int) and self.layers < 0:
            raise UsageError(f"prune layers={self.layers}: it is how many to remove.")
        if not (self.cuts_units or self.layers or self.vocabulary is not None):
            raise UsageError("prune was asked to remove nothing: name a share, as in heads=0.3, or flops=0.6.")
        one_of("importance", (self.importance,), IMPORTANCES)
        if self.samples < 1:
            raise UsageError(f"prune samples={self.samples}: give at least 1, better some hundred.")

    @property
    def cuts_units(self) -> bool:
        return bool(self.heads or self.ffn or self.flops is not None or self.latency is not None)

    @property
    def wants_calibration(self) -> bool:
        """Whether it looks at the calibration file."""
        return self.wants_samples or self.vocabulary is not None

    @property
    def wants_samples(self) -> bool:
        """Whether it looks at what the model does with the calibration rows."""
        unit_samples = self.cuts_units and (self.importance in ("fisher", "wanda") or self.reconstruct)
        return unit_samples or (isinstance(self.layers, int) and self.layers > 0) or self.latency is not None

    @classmethod
    def parse(cls, text: str) -> Prune:
        """``heads=0.3,ffn=0.4`` as on the command line; names of layers are joined by ``+``.

        Raises:
            UsageError: no such field, or no number where there should be one.
        """
        types: dict[str, Callable[[str], Any]] = {
            **dict.fromkeys(("heads", "ffn", "flops", "latency"), float),
            "vocabulary": lambda v: v if v == CORPUS else float(v),
            "layers": lambda v: int(v) if v.isdecimal() else tuple(v.split("+")),
            "samples": int,
            "importance": str,
            "reconstruct": {"yes": True, "no": False}.__getitem__,
        }
        values: dict[str, Any] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            one_of("prune option", (name,), tuple(types))
            try:
                values[name] = types[name](value)
            except (ValueError, KeyError) as e:
                raise UsageError(f"--prune {part.strip()!r} has no value that fits: write it like heads=0.3.") from e
        return cls(**values)


def rows_a_step(tokens: float, *, generates: bool) -> int:
    """Rows that a step of distillation takes where no batch is named.

    Args:
        tokens: Of a row, on average.
        generates: Whether the model writes text.
    """
    return min(max(round(_TOKENS / tokens), 1 if generates else _LEAST_ROWS), _MOST_ROWS)


@dataclass(frozen=True)
class Recover:
    """Distillation of a pruned model from the original, with the calibration rows.

    Raises:
        UsageError: a value is not allowed.
    """

    minutes: float = 10.0
    """For the training, as near as a few timed steps tell."""
    steps: int | None = None
    """Instead of minutes: the same however fast the machine is."""
    batch: int | None = None
    """Rows a step and device; None takes as many as have 512 tokens together, at least 8 of
    them unless the model writes text, and at most 64."""
    learning_rate: float | None = None
    """At its highest; None takes 4e-4 for hidden states of up to 384 numbers and less for wider ones."""
    folder: str | None = None
    """For checkpoints; a run that was interrupted goes on from there."""
    logs: bool = False
    """For TensorBoard, in the folder."""

    def __post_init__(self) -> None:
        counts = [n for n in (self.steps, self.batch) if n is not None]
        if self.minutes <= 0 or any(n < 1 for n in counts):
            raise UsageError(
                f"recover for {self.minutes:g} minutes or {self.steps} steps, {self.batch} rows: all are to be above 0."
            )
        if self.learning_rate is not None and self.learning_rate < 0:
            raise UsageError(f"recover rate={self.learning_rate}: give a learning rate above 0, such as 1e-4.")
        if self.logs and self.folder is None:
            raise UsageError("recover writes logs into its folder: name one, as in 10m,folder=run,logs=yes.")

    @classmethod
    def parse(cls, text: str) -> Recover:
        """``10m``, ``90s``, ``1h`` or ``500steps``, and ``batch=``, ``rate=``, ``folder=``, ``logs=yes`` after it.

        Raises:
            UsageError: it is not written like that.
        """
        duration, *more = text.split(",")
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|steps)", duration)
        options = dict(part.partition("=")[::2] for part in more)
        one_of("recover option", tuple(options), ("batch", "rate", "folder", "logs"))
        if found is None:
            raise UsageError(f"--recover {duration!r} is no time: write it like 10m, 90s or 500steps.")
        number, unit = float(found[1]), found[2]
        try:
            return cls(
                minutes=number * {"s": 1 / 60, "m": 1, "h": 60, "steps": 1}[unit],
                steps=int(number) if unit == "steps" else None,
                batch=int(options["batch"]) if "batch" in options else None,
                learning_rate=float(options["rate"]) if "rate" in options else None,
                folder=options.get("folder"),
                logs=options.get("logs", "no") == "yes",
            )
        except UsageError:
            raise
        except ValueError as e:
            raise UsageError(f"--recover {text!r} has no value that fits: write it like 10m,batch=32,rate=1e-4.") from e


_RUNS = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Sparsity:
    """How many weights of the model's layers become zero; matrices keep their shapes.

    Raises:
        UsageError: a value is not allowed.
    """

    amount: str
    """A share to become zero, ``0.5``; or ``2:4``: how many stay of every so many that an output reads side by side."""
    method: str = "sparsegpt"

    def __post_init__(self) -> None:
        one_of("sparsity method", (self.method,), SPARSIFIERS)
        if self.share is None and self.pattern is None:
            raise UsageError(
                f"--sparsity {self.amount!r} is neither a share above 0 and below 1, nor how many stay of every "
                f"{', '.join(map(str, _RUNS))}: write it like 0.5 or 2:4."
            )

    @property
    def share(self) -> float | None:
        """Of zeros; None where the amount is a pattern."""
        found = float(self.amount) if re.fullmatch(r"0?\.\d+", self.amount) else 0.0
        return found if 0 < found < 1 else None

    @property
    def pattern(self) -> tuple[int, int] | None:
        """How many stay, of how many; None where the amount is a share."""
        found = re.fullmatch(r"(\d+):(\d+)", self.amount)
        if found is None:
            return None
        stay, run = int(found[1]), int(found[2])
        return (stay, run) if run in _RUNS and 0 < stay < run else None

    @property
    def wants_samples(self) -> bool:
        """Whether it looks at what the layers read."""
        return self.method != "magnitude"
