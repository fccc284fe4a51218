"""Recover what pruning lost, by distillation: the pruned model learns from the original, on the calibration rows.

The loss is the divergence of the outputs (of sentence embeddings their distance, and that of their cosines), the
distance of the hidden states after each layer that is left, and, where rows are labelled, the labels'. transformers'
Trainer does the rest, on as many devices as accelerate finds.

There is time for some epochs at most, so every step counts: no dropout, a high learning rate, rows of like length
together, and the table of words as it was (most of a small model's numbers, of which a batch has few).
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from edgeport.errors import MissingExtraError
from torch import Tensor, nn
from torch.nn import functional

from edgeport_export.calibration import Calibration, load_calibration
from edgeport_export.head import ExportHead
from edgeport_export.progress import Progress
from edgeport_export.prune.find import word_table
from edgeport_export.pruning import Recover, rows_a_step
from edgeport_export.recipe import Recipe
from edgeport_export.source import Source

try:
    import accelerate  # noqa: F401
except ImportError as e:
    raise MissingExtraError("--recover", "recover") from e

from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

__all__ = ["recover"]

_ROWS = 100_000
_TIMED = 8
"""Steps to time before it is decided how many there is time for; the first two warm up."""
_TEMPERATURE = 2.0
"""That soft labels are compared at (Hinton et al. 2015, Distilling the Knowledge in a Neural Network)."""
_LABELS = 0.5
"""Weight of the labels' loss beside the original's."""
_RATE, _RATE_WIDTH = 4e-4, 384
"""A learning rate, and the width of hidden states up to which it is stable; for wider ones it falls as the width grows
(Yang et al. 2022, Tensor Programs V)."""
_PLAN = "plan.json"


def recover(original: nn.Module, source: Source, recipe: Recipe, progress: Progress | None = None) -> None:
    """Train the source's model, in place, towards ``original``; ``source.pruning`` says for how long.

    Raises:
        UsageError: there are no rows, or a folder to go on in is of another run.
    """
    choice, progress = recipe.recover, progress or Progress(show=False)
    if choice is None:
        return
    samples = load_calibration(source, recipe, _ROWS)
    with tempfile.TemporaryDirectory() as scratch, progress.stage("recover", "Distil from the original"):
        folder = Path(choice.folder or scratch)
        choice = _settled(choice, source, samples)
        if choice.steps is None:
            seconds = _seconds_a_step(original, source, samples, choice, recipe.seed, Path(scratch) / "timed")
            steps = _planned(folder, max(1, int(choice.minutes * 60 / seconds)))
        else:
            steps = choice.steps
        last = get_last_checkpoint(str(folder)) if choice.folder and folder.is_dir() else None
        with _words_as_they_are(source.model):
            trainer = _Distil(original, source, samples, _arguments(folder, steps, choice, recipe.seed))
            trainer.train(resume_from_checkpoint=last)
    source.model.eval()
    source.pruning = {**source.pruning, "recovered": {"steps": steps, "batch": choice.batch, "samples": str(samples)}}
    progress.note(f"distilled {steps} steps of {choice.batch} rows")


def _settled(choice: Recover, source: Source, samples: Calibration) -> Recover:
    """With rows and learning rate chosen where they were left open."""
    tokens = sum(len(row["input_ids"]) for row in samples.rows) / len(samples.rows)
    width = max(getattr(source.config, "hidden_size", 0) or 0, _RATE_WIDTH)
    return dataclasses.replace(
        choice,
        batch=choice.batch or rows_a_step(tokens, generates=source.task.generates),
        learning_rate=_RATE * _RATE_WIDTH / width if choice.learning_rate is None else choice.learning_rate,
    )


def _arguments(folder: Path, steps: int, choice: Recover, seed: int) -> TrainingArguments:
    assert choice.batch is not None
    assert choice.learning_rate is not None
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=choice.batch,
        learning_rate=choice.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=min(steps // 20, 100),
        train_sampling_strategy="group_by_length",
        seed=seed,
        data_seed=seed,
        save_steps=max(50, steps // 10),
        save_total_limit=1,
        save_strategy="steps" if choice.folder else "no",
        logging_steps=10,
        report_to=["tensorboard"] if choice.logs else [],
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _seconds_a_step(
    original: nn.Module, source: Source, samples: Calibration, choice: Recover, seed: int, scratch: Path
) -> float:
    """Time some steps, and put the weights back."""
    before = {name: tensor.clone() for name, tensor in source.model.state_dict().items()}
    marks: list[float] = []
    quiet = Recover(minutes=choice.minutes, learning_rate=0.0, batch=choice.batch)
    with _words_as_they_are(source.model):
        _Distil(original, source, samples, _arguments(scratch, _TIMED, quiet, seed), marks).train()
    source.model.load_state_dict(before)
    return (marks[-1] - marks[2]) / (len(marks) - 3)


@contextmanager
def _words_as_they_are(model: nn.Module) -> Iterator[None]:
    """The table of words learns nothing meanwhile, unless the outputs are made of it."""
    table = word_table(model)
    outputs: Any = getattr(model, "get_output_embeddings", lambda: None)()
    fixed = table is not None and table.requires_grad and (outputs is None or outputs.weight is not table)
    if fixed:
        table.requires_grad_(False)
    try:
        yield
    finally:
        if fixed:
            table.requires_grad_()


def _planned(folder: Path, steps: int) -> int:
    """The steps that a run in this folder was begun with, which its learning rate depends on; else those given."""
    plan = folder / _PLAN
    if plan.is_file():
        return int(json.loads(plan.read_text(encoding="utf-8"))["steps"])
    folder.mkdir(parents=True, exist_ok=True)
    plan.write_text(json.dumps({"steps": steps}), encoding="utf-8")
    return steps


class _Distil(Trainer):
    """A trainer whose loss is how far the model is from the original."""

    def __init__(
        self,
        original: nn.Module,
        source: Source,
        samples: Calibration,
        arguments: TrainingArguments,
        marks: list[float] | None = None,
    ) -> None:
        head = ExportHead(source)
        super().__init__(
            model=source.model,
            args=arguments,
            train_dataset=list(samples.rows),
            data_collator=lambda rows: _padded(source, rows, samples.labels),
        )
        self.remove_callback(PrinterCallback)  # standard output is the command's, which may be writing JSON
        self._original = original.to(self.args.device).eval()
        self._names, self._options = head.names, head.options
        self._labels, self._marks = samples.labels, marks
        self._outputs, self._sentence_head = head.outputs, source.sentence_head
        self._layers = _counterparts(source)

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        if self._marks is not None:
            self._marks.append(time.perf_counter())
        model.eval()  # the Trainer has just switched dropout on
        read = {name: inputs[name] for name in self._names}
        labels = {name: inputs[name] for name in self._labels}
        with torch.no_grad():
            wanted = self._original(**read, **self._options, output_hidden_states=True, return_dict=True)
        given = model(**read, **labels, **self._options, output_hidden_states=True, return_dict=True)
        mask = read["attention_mask"] if "attention_mask" in read else torch.ones_like(read["input_ids"])
        loss = self._outputs_apart(given, wanted, mask) + _hidden_apart(
            given.hidden_states, wanted.hidden_states, self._layers, mask
        )
        if labels:
            loss = loss + _LABELS * given.loss
        return (loss, given) if return_outputs else loss

    def _outputs_apart(self, given: Any, wanted: Any, mask: Tensor) -> Any:
        if self._sentence_head is None:
            return sum(_apart(name, given[name], wanted[name], mask) for name in self._outputs)
        return _embeddings_apart(*(self._sentence_head(r.last_hidden_state, mask) for r in (given, wanted)))


def _counterparts(source: Source) -> dict[str, list[int]] | None:
    """Layers that are gone, by list; None where all are there."""
    gone: dict[str, list[int]] = {}
    for name in source.pruning.get("layers", ()):
        path, _, number = name.rpartition(".")
        gone.setdefault(path, []).append(int(number))
    return gone or None


def _apart(name: str, given: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """How far an output is from the original's, padding left out.

    Logits of classes are compared as distributions, those of an answer's ends as distributions over tokens, and
    anything else by squared distance.
    """
    if not name.endswith("logits") or given.shape[-1] == 1:
        return _distance(given, wanted, mask)
    if name != "logits":
        low = torch.finfo(given.dtype).min
        given, wanted, mask = given.masked_fill(mask == 0, low), wanted.masked_fill(mask == 0, low), mask[:, 0]
    soft = functional.log_softmax(given / _TEMPERATURE, -1), functional.log_softmax(wanted / _TEMPERATURE, -1)
    each = functional.kl_div(*soft, reduction="none", log_target=True).sum(-1) * _TEMPERATURE**2
    return (each * mask).sum() / mask.sum() if each.shape == mask.shape else each.mean()


def _embeddings_apart(given: Tensor, wanted: Tensor) -> Tensor:
    """How far texts' embeddings are from the original's, and their cosines with each other from its."""
    one, other = functional.normalize(given, dim=-1), functional.normalize(wanted, dim=-1)
    pairs = max(1, len(one) * (len(one) - 1))
    return (one - other).square().sum(-1).mean() + (one @ one.T - other @ other.T).square().sum() / pairs


def _distance(given: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Squared, as a share of the original's size."""
    weight = mask[..., None].to(given.dtype) if given.dim() == 3 else torch.ones_like(given)
    return ((given - wanted).square() * weight).sum() / ((wanted.square() * weight).sum() + 1e-9)


def _hidden_apart(
    given: Sequence[Tensor], wanted: Sequence[Tensor], gone: Mapping[str, list[int]] | None, mask: Tensor
) -> Tensor:
    """Squared distance of hidden states after each layer that is left, relative to the original's size."""
    after = list(range(len(wanted)))
    if gone is not None:
        removed = {n for numbers in gone.values() for n in numbers}
        # What the next layer that is left read in the original.
        after = [i for i in after if i not in removed]
    total = torch.zeros((), device=mask.device)
    for one, i in zip(given, after[-len(given) :], strict=False):
        other = wanted[i]
        if one.shape[:2] != mask.shape:
            continue  # hidden states of latents, or pooled ones
        total = total + _distance(one, other, mask)
    return total / len(given)


def _padded(source: Source, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, Tensor]:
    """Rows of any length as tensors, padded on the right."""
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": source.tokenizer.pad_token_id or 0, "token_type_ids": source.tokenizer.pad_token_type_id}
    batch = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if isinstance(first, list) and len(first) == len(rows[0]["input_ids"]):
            value = -100 if name in labels else fill.get(name, 0)
            values = [[*row, *([value] * (longest - len(row)))] for row in values]
        batch[name] = torch.tensor(values)
    return batch
