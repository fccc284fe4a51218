"""Rows of a model's tables of words that a corpus does not need, cut out, with the tokenizer rewritten to match.

Which tables those are is found by running the model: they are read by the very ids that it was given. The output layer
of a model that predicts words goes with them. What is left has to say of the same text what the whole model says.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgeport.errors import ExportError, UsageError
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeport_export.calibration import corpus
from edgeport_export.generation import generation_options
from edgeport_export.head import ExportHead
from edgeport_export.prune.renumber import mentioned, renumber
from edgeport_export.prune.tokens import Text, always, encoded, parts_of, token_ids, used, without
from edgeport_export.pruning import CORPUS
from edgeport_export.recipe import Recipe
from edgeport_export.samples import Batch, capture_batch, check_vocabulary
from edgeport_export.source import Source

__all__ = ["trim_vocabulary"]

_TOLERANCE = 1e-5
"""Largest difference that cutting rows may make, as a share of the largest output: fp32 sums in another order."""
_PREDICT_WORDS = ("fill-mask", "text-generation")
_HYPOTHESIS = "This example is ."
"""What a zero-shot classifier puts around a label, where nothing else is asked for."""


def trim_vocabulary(source: Source, recipe: Recipe, share: float | str) -> dict[str, Any]:
    """Cut the source's model and tokenizer in place; returns what the manifest says of it.

    Args:
        source: A model that reads its words from a table.
        recipe: Says where the corpus is.
        share: ``corpus``: what the corpus needs; else how many of the tokens stay, the most frequent.

    Raises:
        UsageError: there is no corpus, or no such table.
        ExportError: the model without the rows is not the model.
    """
    tables, rows = _tables(source)
    old = _plain(source.tokenizer.backend_tokenizer.to_str())
    data = json.loads(old.to_str())
    texts = [*corpus(source, recipe), *_own_texts(source)]
    counts = used(old, data, texts)
    kept = _kept(source, data, counts, share, rows)
    new = _plain(json.dumps(without(data, kept)))
    complete = set(counts) <= set(kept)
    _check_tokenizer(old, new, kept, data, texts if complete else ())
    source.tokenizer = _with_backend(source.tokenizer, new)
    batch = capture_batch(source)
    wanted = _run(source, {**batch, "input_ids": np.array(kept)[batch["input_ids"]]})
    writes = _cut(source, tables, kept, rows)
    _check_model(wanted, _run(source, batch), kept if writes else None, source)
    if source.task.generates:
        source.task_options = generation_options(source.model, source.tokenizer)
    assert recipe.calibration is not None
    return {
        "kept": len(kept),
        "of": rows,
        "used": len(counts),
        "complete": complete,
        "corpus": Path(recipe.calibration).name,
    }


def _plain(text: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _with_backend(tokenizer: Any, backend: Tokenizer) -> Any:
    new = copy.deepcopy(tokenizer)
    new._tokenizer = backend
    return new


def _own_texts(source: Source) -> Iterator[Text]:
    """What a pipeline puts around the texts that it is given."""
    yield from (source.task_options.get("prompts") or {}).values()
    if source.task.name == "zero-shot-classification":
        yield _HYPOTHESIS
    template = source.task_options.get("chat_template")
    if template is not None:
        said = [{"role": role, "content": "."} for role in ("user", "assistant", "user")]
        yield source.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)


def _tables(source: Source) -> tuple[set[int], int]:
    """The parameters (their ``id``) that are read by token ids, and how many rows they have.

    Raises:
        UsageError: there is none, or they differ in size.
    """
    batch = capture_batch(source)
    with _LookUps(torch.from_numpy(batch["input_ids"])) as seen:
        _run(source, batch)
    found = seen.tables
    sizes = {len(table) for table in found.values()}
    if len(sizes) != 1:
        why = f"{len(sizes)} tables of different sizes" if sizes else "no table that token ids are looked up in"
        raise UsageError(f"{type(source.model).__name__} has {why}: leave vocabulary away.")
    return set(found), sizes.pop()


class _LookUps(TorchDispatchMode):
    """Notes the tables in which the ids of a batch are looked up, in whatever order, while it lasts."""

    def __init__(self, ids: Tensor) -> None:
        super().__init__()
        self._ids = ids.flatten().sort().values
        self.tables: dict[int, Tensor] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.embedding.default:
            table, ids = args[:2]
            if torch.equal(ids.flatten().sort().values, self._ids):
                self.tables[id(table)] = table
        return function(*args, **(kwargs or {}))


def _kept(
    source: Source, data: Mapping[str, Any], counts: Mapping[int, int], share: float | str, rows: int
) -> list[int]:
    """The ids that stay, in their new order: those of the tokenizer's model first."""
    ids, parts = token_ids(data), parts_of(data)
    stays = always(data) | {number for number in mentioned(source.model) if number < rows}
    if share == CORPUS:
        stays = stays.union(*(parts(number) for number in counts))
    else:
        room = round(float(share) * rows)
        for number in sorted(ids.values(), key=lambda number: (-counts.get(number, 0), number)):
            more = parts(number) - stays
            if len(stays) + len(more) <= room:
                stays |= more
    check_vocabulary(source, max(stays))
    own, named = set(token_ids({**data, "added_tokens": []}).values()), set(ids.values())
    return [*sorted(stays & own), *sorted(stays & named - own), *sorted(stays - named)]


def _check_tokenizer(
    old: Tokenizer, new: Tokenizer, kept: Sequence[int], data: Mapping[str, Any], texts: Sequence[Text]
) -> None:
    """Raise ExportError unless all tokens are there under their new ids, and the texts give the same pieces."""
    number_of = {before: after for after, before in enumerate(kept)}
    lost = next((t for t, n in token_ids(data).items() if n in number_of and new.token_to_id(t) != number_of[n]), None)
    if lost is not None:
        raise ExportError(f"the tokenizer without some tokens loses {lost!r} as well: leave vocabulary away.")
    for before, after in zip(encoded(old, texts), encoded(new, texts), strict=True):
        if before != [kept[number] for number in after]:
            text = old.decode(before)
            raise ExportError(f"the tokenizer without some tokens reads {text!r:.60} otherwise: leave vocabulary away.")


def _run(source: Source, batch: Batch) -> list[Tensor]:
    return [output.clone() for output in ExportHead(source).run(batch)]


def _cut(source: Source, tables: set[int], kept: Sequence[int], rows: int) -> bool:
    """Cut the tables and the layer that predicts words; whether there is one."""
    model, index = source.model, torch.tensor(kept)
    output = model.get_output_embeddings() if source.task.name in _PREDICT_WORDS else None
    if source.task.name in _PREDICT_WORDS and (output is None or len(output.weight) != rows):
        raise UsageError(f"{type(model).__name__} predicts other words than it reads: leave vocabulary away.")
    wanted = set(tables)
    if output is not None:
        wanted |= {id(output.weight), *(id(vector) for vector in _vectors_beside(model, output, rows))}
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for slots in (module._parameters, module._buffers):
            for name, tensor in slots.items():
                if tensor is None or id(tensor) not in wanted:
                    continue
                axis = 0 if tensor.ndim > 1 and len(tensor) == rows else -1
                made.setdefault(id(tensor), _selected(tensor, axis, index))
                slots[name] = made[id(tensor)]  # what is shared stays shared
        _resize(module, len(kept), rows, {old: number for number, old in enumerate(kept)})
    renumber(model, {old: number for number, old in enumerate(kept)}, rows)
    return output is not None


def _vectors_beside(model: nn.Module, output: nn.Module, rows: int) -> Iterator[Tensor]:
    """What is added to every word's score: by the layer itself or by a module that it stands in."""
    for module in model.modules():
        if any(inner is output for inner in module.modules()):
            own = (*module._parameters.values(), *module._buffers.values())
            yield from (t for t in own if t is not None and t.numel() == rows == t.shape[-1])


def _selected(tensor: Tensor, axis: int, index: Tensor) -> Tensor:
    new = tensor.detach().index_select(axis, index).contiguous()
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _resize(module: nn.Module, size: int, rows: int, new: Mapping[int, int]) -> None:
    """The sizes that tables and layers keep beside their weights."""
    if isinstance(module, nn.Embedding) and module.num_embeddings == rows and len(module.weight) == size:
        module.num_embeddings = size
        if module.padding_idx is not None:
            module.padding_idx = new.get(module.padding_idx)
    elif isinstance(module, nn.Linear) and module.out_features == rows and len(module.weight) == size:
        module.out_features = size


def _check_model(wanted: Sequence[Tensor], given: Sequence[Tensor], kept: Sequence[int] | None, source: Source) -> None:
    """Raise ExportError unless the outputs are what they were, those for words that are gone left out."""
    for before, after in zip(wanted, given, strict=True):
        expected = before if kept is None else before[..., list(kept)]
        if expected.shape != after.shape or (after - expected).abs().max() > _TOLERANCE * expected.abs().max():
            raise ExportError(
                f"{type(source.model).__name__} gives other outputs without the words that the corpus does not need: "
                "leave vocabulary away."
            )
