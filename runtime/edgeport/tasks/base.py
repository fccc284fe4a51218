"""What pipelines share: all of them (``Pipeline``), and those that read texts in batches (``ReadingPipeline``).

Knows no task. A reading task says how an item becomes rows (``_encode``), what to keep of a row's outputs (``_read``),
and how what was kept becomes the result (``_finish``). All three see the call's options, a frozen dataclass of the
task's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from edgeport.bundle import Bundle
from edgeport.errors import BundleError, InputError, UsageError
from edgeport.tasks.options import positive
from edgeport.text import Padding, TextEncoder, Truncation, plan

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["Array", "Pipeline", "ReadingPipeline", "Runner", "chunks"]

Array = npt.NDArray[Any]


class Runner(Protocol):
    """What a pipeline needs of a session."""

    input_names: tuple[str, ...]
    input_types: dict[str, str]
    input_shapes: dict[str, tuple[int | str | None, ...]]
    output_names: tuple[str, ...]
    tokens_at_once: int
    """As many as keep it busy: more are no faster."""

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Run the graph; several threads may call it at once."""

    def bind(self) -> Any:
        """A loop's own arrays for the graph, see ``edgeport.session.Binding``."""

    def report(self) -> Any:
        """How the graph runs here."""

    def close(self) -> None:
        """Give its memory back."""


class Pipeline(ABC):
    """A model that can be called: text in, results out. Safe to call from several threads."""

    task: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]
    """Outputs of the graph that the task reads."""

    def __init__(self, bundle: Bundle, runner: Runner, text: TextEncoder, *, batch_size: int = 32) -> None:
        """Put the parts together.

        Args:
            bundle: Says what the model is.
            runner: Runs its graph; the pipeline owns it and closes it.
            text: Its tokenizer.
            batch_size: Most rows that run at once.

        Raises:
            BundleError: the graph is not one of this task.
            UsageError: ``batch_size`` is not a positive integer.
        """
        missing = sorted(set(self.outputs) - {output.name for output in bundle.manifest.outputs})
        if missing:
            raise BundleError(
                f"the graph has no output {', '.join(missing)}, which {self.task} needs: export it again."
            )
        self.bundle = bundle
        self._runner = runner
        self._text = text
        self._options = bundle.manifest.task_options
        self._batch_size = positive("batch_size", batch_size)
        self._closed = False

    @abstractmethod
    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the model on one item, a list of items, or an iterator of items."""

    @abstractmethod
    def warm_up(self, lengths: Sequence[int] = (8, 32, 128)) -> None:
        """Run the model once at each length (in tokens), so that the first real call is as fast as the later ones."""

    def report(self) -> Any:
        """Variant, provider of every node, threads and memory, as the session tells them."""
        return self._runner.report()

    def close(self) -> None:
        """Close the session; later calls are refused."""
        self._closed = True
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<edgeport pipeline {self.task!r} of {self.bundle.manifest.source.id!r}>"

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the pipeline is closed: load the bundle again.")


def chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """The items, ``size`` at a time."""
    while chunk := list(islice(items, size)):
        yield chunk


class ReadingPipeline(Pipeline):
    """Reads texts in batches, sorted by length, and answers in their order."""

    per_token: ClassVar[bool] = False
    """Whether the outputs have one row a token; ``_read`` then sees the row's own tokens and no padding."""
    labelled: ClassVar[bool] = False
    """Whether the last axis of the first output has one number for each of the manifest's labels."""
    max_tokens: ClassVar[int] = 2**15
    """Most tokens in a batch, padding included, wherever it runs: bounds the memory."""

    def __init__(self, bundle: Bundle, runner: Runner, text: TextEncoder, *, batch_size: int = 32) -> None:
        """See ``Pipeline``.

        Raises:
            BundleError: the graph does not fit the labels either.
        """
        super().__init__(bundle, runner, text, batch_size=batch_size)
        manifest = bundle.manifest
        shapes = {output.name: output.shape for output in manifest.outputs}
        classes = shapes[self.outputs[0]][-1]
        if self.labelled and isinstance(classes, int) and classes != len(manifest.labels):
            raise BundleError(
                f"the graph has {classes} classes and the bundle {len(manifest.labels)} labels: export again."
            )
        self._labels = manifest.labels
        self._padding = Padding(
            text.spec,
            [t.name for t in manifest.inputs],
            max_length=text.max_length,
            maskable=text.spec.maskable_padding,
        )

    @abstractmethod
    def _encode(self, items: list[Any], options: Any) -> list[list[Encoding]]:
        """The rows of each item."""

    @abstractmethod
    def _finish(self, item: Any, kept: list[Any], options: Any) -> Any:
        """The item's result, of what ``_read`` kept of each of its rows."""

    def _read(self, row: Encoding, values: tuple[Array, ...], options: Any) -> Any:
        """What to keep of a row's outputs, in the order of ``outputs`` and without the batch axis.

        The arrays are views into the batch's: a copy of the part that matters lets the rest go.
        """
        return values[0]

    def warm_up(self, lengths: Sequence[int] = (8, 32, 128)) -> None:
        for length in sorted({min(n, self._text.max_length) for n in lengths}, reverse=True):
            row = self._text.encode(["a " * length], truncation=Truncation(length, asked=True))[0][0]
            self._runner.run(self._padding.feeds([row], self._padding.length(len(row))))

    def _map(self, inputs: Any, options: Any, batch_size: int | None) -> Any:
        """A list gives a list, an iterator gives a lazy iterator, anything else is one item."""
        size = self._batch_size if batch_size is None else positive("batch_size", batch_size)
        if isinstance(inputs, list | tuple):
            return self._run(list(inputs), options, size)
        if isinstance(inputs, Iterator):
            return self._stream(inputs, options, size)
        return self._run([inputs], options, size)[0]

    def _stream(self, inputs: Iterator[Any], options: Any, batch_size: int) -> Iterator[Any]:
        for chunk in chunks(inputs, batch_size):
            yield from self._run(chunk, options, batch_size)

    def _run(self, items: list[Any], options: Any, batch_size: int) -> list[Any]:
        self._check_open()
        if not items:
            return []
        rows_of = self._encode(items, options)
        kept = iter(self._forward([row for rows in rows_of for row in rows], options, batch_size))
        return [
            self._finish(item, list(islice(kept, len(rows))), options)
            for item, rows in zip(items, rows_of, strict=True)
        ]

    def _forward(self, rows: list[Encoding], options: Any, batch_size: int) -> list[Any]:
        """Run all rows, sorted into batches; what is kept comes in the order of the rows."""
        padding, fixed = self._padding, self._text.spec.fixed_batch
        batches = plan(
            [len(row) for row in rows],
            padding.length,
            batch_size=fixed or batch_size,
            max_tokens=min(self.max_tokens, self._runner.tokens_at_once) if fixed is None else 2**63,
            exact=padding.exact,
        )
        kept: list[Any] = [None] * len(rows)
        for batch in batches:
            results = self._runner.run(padding.feeds([rows[i] for i in batch.rows], batch.length))
            arrays = [results[name].astype(np.float32, copy=False) for name in self.outputs]
            for position, i in enumerate(batch.rows):
                values = tuple(array[position] for array in arrays)
                if self.per_token:
                    span = padding.span(len(rows[i]), batch.length)
                    values = tuple(value[span] for value in values)
                kept[i] = self._read(rows[i], values, options)
        return kept

    def _check_text(self, value: Any, what: str = "a text") -> str:
        """``value`` if it is a string.

        Raises:
            InputError: it is something else.
        """
        if not isinstance(value, str):
            raise InputError(f"{self.task} takes {what} as a string, not {type(value).__name__} ({value!r:.60}).")
        return value
