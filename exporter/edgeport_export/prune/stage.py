"""The stage of the export that prunes: the steps in order, and what the manifest says of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from edgeport.errors import UsageError
from torch import Tensor, nn

from edgeport_export.calibration import Calibration, LabelledBatch, load_calibration
from edgeport_export.head import ExportHead
from edgeport_export.progress import Progress
from edgeport_export.prune.cut import cut, cuttable
from edgeport_export.prune.find import find_units
from edgeport_export.prune.importance import IMPORTANCES, Gathered, gather
from edgeport_export.prune.latency import measure
from edgeport_export.prune.layers import find_layers, remove_layers, weakest
from edgeport_export.prune.objective import objective, outputs
from edgeport_export.prune.reconstruct import reconstruct
from edgeport_export.prune.search import Choices, rearrange, share, within
from edgeport_export.prune.units import Units
from edgeport_export.prune.vocabulary import trim_vocabulary
from edgeport_export.pruning import Prune
from edgeport_export.recipe import Recipe
from edgeport_export.samples import capture_batch
from edgeport_export.source import Source

__all__ = ["prune", "pruning_notes", "pruning_summary"]

_TOKENS = 2**16
"""Of the samples, at most."""
_ROWS, _AT_ONCE = 64, 2048
"""Rows and tokens of a batch, at most: small products are slow ones."""
_STEPS = 32
"""Sizes of a feed-forward layer to choose from, at least; of whole vectors of 16 numbers where it is wide enough."""
_MEASURED = 9
"""Sizes of a layer that are timed; those between are on a line."""


def prune(source: Source, recipe: Recipe, progress: Progress | None = None) -> None:
    """Cut the source's model as ``recipe.prune`` says, in place; ``source.pruning`` says what was cut.

    Raises:
        UsageError: there are no samples, or no such layers or units.
        ExportError: the model does not go on without a layer.
    """
    choice, progress = recipe.prune, progress or Progress(show=False)
    if choice is None:
        return
    if recipe.recover is not None:
        from edgeport_export.prune.recover import recover  # says what is missing before any work
    before = sum(p.numel() for p in source.model.parameters())
    record: dict[str, Any] = {"original_sha256": source.weights_sha256()}
    if choice.vocabulary is not None:  # first, since all that follows is measured in tokens
        with progress.stage("prune", "Trim the vocabulary"):
            record["vocabulary"] = trim_vocabulary(source, recipe, choice.vocabulary)
    samples = load_calibration(source, recipe, choice.samples, tokens=_TOKENS) if choice.wants_samples else None
    record["samples"] = str(samples) if samples else None
    head, original = ExportHead(source), copy.deepcopy(source.model)
    torch.manual_seed(recipe.seed)
    if choice.layers:
        with progress.stage("prune", "Remove layers"):
            record["layers"] = _remove_layers(head, source, choice, samples)
    if choice.cuts_units:
        with progress.stage("prune", "Look for heads and neurons"):
            found, refused = _found(head, source, choice)
        with progress.stage("prune", "Remove heads and neurons"):
            record["importance"] = choice.importance
            removed = record.get("layers", ())
            # What training is to follow for would undo a refit.
            refit = choice.reconstruct and recipe.recover is None
            record |= _cut_units(head, original, found, choice, samples, recipe.seed, removed, refit=refit)
        record["not_prunable"] = [units.name for units in refused]
        if refused:
            progress.note(_not_pruned(refused))
    after = sum(p.numel() for p in source.model.parameters())
    record |= {"parameters": after, "original_parameters": before}
    source.pruning = record
    for line in (pruning_summary(record), *pruning_notes(record)):
        progress.note(line)
    if recipe.recover is not None:
        recover(original, source, recipe, progress)


def _remove_layers(head: ExportHead, source: Source, choice: Prune, samples: Calibration | None) -> list[str]:
    names = list(choice.layers) if isinstance(choice.layers, tuple) else []
    if isinstance(choice.layers, int):
        assert samples is not None
        batches = samples.batches()
        chosen = batches[:: -(-len(batches) // 16)]
        names = weakest(
            source.model,
            find_layers(source.model),
            choice.layers,
            lambda: torch.cat([outputs(head, b) for b in chosen]),
        )
    remove_layers(source.model, names, _run(head, source))
    return names


def _run(head: ExportHead, source: Source) -> Callable[[], Tensor]:
    sample = capture_batch(source)
    batch = LabelledBatch({name: torch.from_numpy(array) for name, array in sample.items()}, {})
    return lambda: outputs(head, batch)


def _found(head: ExportHead, source: Source, choice: Prune) -> tuple[list[Units], list[Units]]:
    """The units of the kinds that are to be cut: those that can be, and those that cannot."""
    inputs = {name: torch.from_numpy(array) for name, array in capture_batch(source).items()}
    kinds = {kind for kind in ("heads", "ffn") if getattr(choice, kind)} or {"heads", "ffn"}
    found = [u for u in find_units(source.model, inputs) if u.kind in kinds]
    good, bad = cuttable(source.model, found, _run(head, source))
    for kind in (k for k in sorted(kinds) if getattr(choice, k) and not any(u.kind == k for u in good)):
        what = {"heads": "attention heads", "ffn": "feed-forward neurons"}[kind]
        raise UsageError(f"{type(source.model).__name__} has no {what} that can be cut out: leave {kind} away.")
    if not good:
        raise UsageError(f"{type(source.model).__name__} has no heads or neurons that can be cut out: leave them away.")
    return good, bad


def _cut_units(
    head: ExportHead,
    original: nn.Module,
    found: Sequence[Units],
    choice: Prune,
    samples: Calibration | None,
    seed: int,
    removed: Sequence[str],
    *,
    refit: bool,
) -> dict[str, Any]:
    """Score, choose, cut and refit."""
    batches = samples.batches(_ROWS, tokens=_AT_ONCE) if samples is not None else []
    gathered = [Gathered() for _ in found]
    if batches:
        gathered = gather(head.model, found, batches, objective(head, seed=seed))
    scores = [IMPORTANCES[choice.importance](units, g) for units, g in zip(found, gathered, strict=True)]
    counts = _counts(found, scores, choice, batches)
    kept = [_kept(*one, choice) for one in zip(scores, counts, gathered, strict=True)]
    for units, stays in zip(found, kept, strict=True):
        cut(units, stays.nonzero()[:, 0])
    if refit:
        names = {units.name: _name_before(units.name, removed) for units in found}
        reconstruct(original, head.model, found, [b.inputs for b in batches], [g.weights for g in gathered], names)
    return {
        kind: {
            "kept": sum(n for u, n in zip(found, counts, strict=True) if u.kind == kind),
            "of": sum(u.count for u in found if u.kind == kind),
            "by_layer": {u.name: n for u, n in zip(found, counts, strict=True) if u.kind == kind},
        }
        for kind in ("heads", "ffn")
        if any(u.kind == kind for u in found)
    }


def _counts(
    found: Sequence[Units], scores: Sequence[Tensor], choice: Prune, batches: Sequence[LabelledBatch]
) -> list[int]:
    """How many units of each consumer stay."""
    budget = choice.flops if choice.flops is not None else choice.latency
    if budget is None:
        shares = {kind: share([s for u, s in zip(found, scores, strict=True) if u.kind == kind], getattr(choice, kind))
                  for kind in {u.kind for u in found}}  # fmt: skip
        left = {kind: iter(counts) for kind, counts in shares.items()}
        return [next(left[units.kind]) for units in found]
    sizes = [_sizes(units) for units in found]
    costs = [[float(units.weights * k) for k in kept] for units, kept in zip(found, sizes, strict=True)]
    if choice.latency is not None:
        lengths = sorted(b.inputs["input_ids"].shape[1] for b in batches for _ in b.inputs["input_ids"])
        costs = _times(found, sizes, lengths[len(lengths) // 2])
    choices = [Choices.of(s, kept, cost) for s, kept, cost in zip(scores, sizes, costs, strict=True)]
    return within(choices, budget * sum(cost[0] for cost in costs))


def _sizes(units: Units) -> list[int]:
    """How many units may stay, all of them first."""
    if units.kind == "heads":
        return list(range(units.count, 0, -1))
    step = max(1, units.count // _STEPS)
    if step > 16:
        step -= step % 16
    return [units.count, *range((units.count - 1) // step * step, 0, -step)]


def _times(found: Sequence[Units], sizes: Sequence[Sequence[int]], tokens: int) -> list[list[float]]:
    """Milliseconds by size; layers of the same shapes are measured once."""
    measured: dict[Any, list[float]] = {}
    for units, kept in zip(found, sizes, strict=True):
        shape = _shape(units)
        if shape not in measured:
            at = sorted({round(1 + (units.count - 1) * i / (_MEASURED - 1)) for i in range(_MEASURED)})
            times = torch.tensor(measure(units, at, tokens))
            measured[shape] = [_between(torch.tensor(at), times, k) for k in kept]
    return [measured[_shape(units)] for units in found]


def _shape(units: Units) -> Any:
    return units.kind, units.count, units.size, units.weights


def _between(at: Tensor, times: Tensor, k: int) -> float:
    """The value at ``k`` on the lines between the points."""
    after = int(torch.searchsorted(at, k).clamp(1, len(at) - 1))
    part = (k - at[after - 1]) / (at[after] - at[after - 1])
    return float(times[after - 1] + part * (times[after] - times[after - 1]))


def _kept(scores: Tensor, count: int, gathered: Gathered, choice: Prune) -> Tensor:
    """(units,) bool: the most important, and for Fisher's scores those that do best together."""
    stays = torch.zeros(len(scores), dtype=torch.bool)
    stays[scores.argsort(descending=True, stable=True)[:count]] = True
    if choice.importance == "fisher":
        stays = rearrange(gathered.masks, stays)
    return stays


def _name_before(name: str, removed: Sequence[str]) -> str:
    """What a module was called before layers before it went."""
    for path in {layer.rpartition(".")[0] for layer in removed}:
        if name.startswith(f"{path}."):
            number, _, rest = name.removeprefix(f"{path}.").partition(".")
            gone = {int(layer.rpartition(".")[2]) for layer in removed if layer.rpartition(".")[0] == path}
            before = [i for i in range(int(number) + len(gone) + 1) if i not in gone][int(number)]
            return f"{path}.{before}.{rest}"
    return name


def _not_pruned(refused: Sequence[Units]) -> str:
    names = ", ".join(units.name for units in refused[:3]) + (", …" if len(refused) > 3 else "")
    return f"{len(refused)} products keep all that they read, since what they read cannot be cut apart: {names}"


def pruning_summary(record: Mapping[str, Any]) -> str:
    """What was cut, in a sentence for people."""
    parts = [f"{len(record['layers'])} layers"] if record.get("layers") else []
    for kind, what in (("heads", "heads"), ("ffn", "neurons")):
        if kind in record:
            parts.append(f"{record[kind]['of'] - record[kind]['kept']:,} of {record[kind]['of']:,} {what}")
    if "vocabulary" in record:
        tokens = record["vocabulary"]
        parts.append(f"{tokens['of'] - tokens['kept']:,} of {tokens['of']:,} tokens")
    share_left = record["parameters"] / record["original_parameters"]
    said = [f"removed {', '.join(parts)}; {share_left:.0%} of the parameters stay"] if parts else []
    if "sparsity" in record:
        zeros = record["sparsity"]
        said.append(
            f"{zeros['zeros'] / zeros['of']:.0%} of the {zeros['of'] / 1e6:.1f} million weights of {zeros['layers']} "
            f"layers are zero ({zeros['amount']} by {zeros['method']})"
        )
    return "; ".join(said)


def pruning_notes(record: Mapping[str, Any]) -> list[str]:
    """What else there is to say, a sentence each: why so many tokens stayed."""
    if "vocabulary" not in record:
        return []
    tokens = record["vocabulary"]
    needed = f"{tokens['corpus']} has {tokens['used']:,}" + ("" if tokens["complete"] else ", not all of which stay")
    return [
        f"{tokens['kept']:,} of {tokens['of']:,} tokens stay: {needed}; special ones and single characters always do"
    ]
