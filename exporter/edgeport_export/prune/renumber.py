"""Token ids that a model keeps outside of its tables: in its configurations, its defaults for writing, its modules.

Knows how transformers names such values, and nothing of tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn
from transformers import PretrainedConfig

__all__ = ["mentioned", "renumber"]

_NAMES = ("token_id", "token_index")
"""How the names of ids end, and of lists of ids that each mean the same, as the ends of a text."""
_TOKENS = ("suppress_tokens", "begin_suppress_tokens")
"""Lists of tokens that may go one by one."""
_SEQUENCES = ("bad_words_ids",)
"""Lists of runs of tokens; a run that has lost a token can no longer be written, so it goes."""


def mentioned(model: nn.Module) -> set[int]:
    """Ids that the model is told of and cannot do without: what pads, begins or ends a text, what it has to write."""
    found: set[int] = set()
    for holder in _holders(model):
        for name, value in vars(holder).items():
            if name.endswith(_NAMES) or name == "force_words_ids":
                found.update(_flat(value))
            elif name == "forced_decoder_ids":
                found.update(number for _, number in value or ())
    return found


def renumber(model: nn.Module, new: Mapping[int, int], rows: int) -> None:
    """Give all ids their new numbers, in place, and vocabularies of ``rows`` tokens their new size.

    Args:
        model: With its configurations.
        new: Old id to new; the ids that ``mentioned`` gives are all there.
        rows: Tokens that the model had.
    """
    for holder in _holders(model):
        for name, value in list(vars(holder).items()):
            if name == "vocab_size" and value == rows:
                setattr(holder, name, len(new))
            elif (change := _change(name)) is not None and value is not None:
                setattr(holder, name, change(value, new))


def _holders(model: Any) -> list[Any]:
    """All that has ids among its attributes, each once."""
    configs = [config for m in model.modules() if isinstance(config := getattr(m, "config", None), PretrainedConfig)]
    for config in configs:  # grows meanwhile
        configs += [v for v in vars(config).values() if isinstance(v, PretrainedConfig) and v not in configs]
    found = [*model.modules(), *configs, getattr(model, "generation_config", None)]
    return list({id(holder): holder for holder in found if holder is not None}.values())


def _change(name: str) -> Callable[[Any, Mapping[int, int]], Any] | None:
    """What becomes of the value of an attribute; None where it is no token's."""
    if name.endswith(_NAMES) or name == "force_words_ids":
        return _same_shape
    if name in _TOKENS:
        return lambda value, new: [new[number] for number in value if number in new]
    if name in _SEQUENCES:
        return lambda value, new: [[new[n] for n in run] for run in value if all(n in new for n in run)]
    if name == "sequence_bias":
        return _biased
    if name == "forced_decoder_ids":
        return lambda value, new: [[at, new.get(number, number)] for at, number in value]
    return None


def _same_shape(value: Any, new: Mapping[int, int]) -> Any:
    """An id, or lists of ids; -1 and the like stay."""
    return [_same_shape(one, new) for one in value] if isinstance(value, list | tuple) else new.get(value, value)


def _biased(value: Any, new: Mapping[int, int]) -> Any:
    """What is added to the score of a run of tokens: pairs, or a dictionary."""
    pairs = value.items() if isinstance(value, dict) else value
    found = [([new[n] for n in run], bias) for run, bias in pairs if all(n in new for n in run)]
    return {tuple(run): bias for run, bias in found} if isinstance(value, dict) else [list(pair) for pair in found]


def _flat(value: Any) -> Iterator[int]:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _flat(one)
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        yield value
