"""A tokenizer with fewer tokens: which ones a corpus needs, and tokenizer.json without the others. Knows no model.

A tokenizer of the tokenizers library has one of four models. WordPiece takes the longest piece at each place, Unigram
those of the best score together: what neither of them took for a text may go, and the text gives the same pieces. BPE
merges the pair of the lowest rank again and again, so what was merged on the way has to stay as well; with all merges
that were made for a text still there, none that is gone can come before them.

Special and added tokens stay, and single characters, so that a text of other words is still encoded: in smaller pieces.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from edgeport.errors import UsageError
from tokenizers import Tokenizer

__all__ = ["Text", "always", "encoded", "parts_of", "read_words", "token_ids", "used", "without"]

Text = str | list[str]
"""A text, or one that comes in words."""
Data = Mapping[str, Any]
"""What tokenizer.json says."""

_AT_ONCE = 1024
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A byte of a character that is no piece."""


def token_ids(data: Data) -> dict[str, int]:
    """Token to id, those of the model first.

    Raises:
        UsageError: it is a model without a table of tokens.
    """
    model = data["model"]
    vocabulary = model.get("vocab")
    if model["type"] == "Unigram":
        found = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    elif model["type"] in ("WordPiece", "BPE", "WordLevel"):
        found = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    else:
        raise UsageError(f"a tokenizer of {model['type']} has no vocabulary to trim: leave vocabulary away.")
    return found | {added["content"]: added["id"] for added in data["added_tokens"]}


def always(data: Data) -> set[int]:
    """The ids that stay whatever the corpus: special, added and unknown tokens, single characters, bytes."""
    model, ids = data["model"], token_ids(data)
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    single = {
        number
        for token, number in ids.items()
        if len(token.removeprefix(prefix).removesuffix(suffix)) <= 1 or _BYTE.fullmatch(token)
    }
    named = {added["id"] for added in data["added_tokens"]} | set(_ids_of(data["post_processor"]))
    unknown = {ids[model["unk_token"]]} if model.get("unk_token") in ids else set()
    if model["type"] == "Unigram":
        # What an unknown character counts is set by the worst piece.
        unknown = {min(range(len(model["vocab"])), key=lambda number: model["vocab"][number][1])}
        if model["unk_id"] is not None:
            unknown.add(model["unk_id"])
    return single | named | unknown


def encoded(tokenizer: Tokenizer, texts: Sequence[Text]) -> Iterator[list[int]]:
    """The ids of each text, without special tokens."""
    for words in (False, True):
        some = [text for text in texts if isinstance(text, list) == words]
        for start in range(0, len(some), _AT_ONCE):
            batch = some[start : start + _AT_ONCE]
            for found in tokenizer.encode_batch_fast(batch, is_pretokenized=words, add_special_tokens=False):
                yield found.ids


def used(tokenizer: Tokenizer, data: Data, texts: Sequence[Text]) -> Counter[int]:
    """How often the texts have each token; what is tried for a word and given up counts as well."""
    found: Counter[int] = Counter()
    for ids in encoded(tokenizer, texts):
        found.update(ids)
    model = data["model"]
    if model["type"] == "WordPiece" and found[model["vocab"].get(model["unk_token"], -1)]:
        for word in {w for text in texts for w in read_words(tokenizer, text)}:
            found.update(_tried(word, model))
    return found


def read_words(tokenizer: Tokenizer, text: Text) -> Iterator[str]:
    """What the tokenizer's model is given, one after the other."""
    for part in [text] if isinstance(text, str) else text:
        plain = part if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(part)
        splitter = tokenizer.pre_tokenizer
        yield from [plain] if splitter is None else (word for word, _ in splitter.pre_tokenize_str(plain))


def _tried(word: str, model: Data) -> list[int]:
    """The pieces that WordPiece takes of a word before one is missing; none of a word that it can write."""
    vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]
    taken: list[int] = []
    start = 0
    while start < len(word):
        marked = prefix if start else ""
        end = next((e for e in range(len(word), start, -1) if marked + word[start:e] in vocabulary), None)
        if end is None:
            return taken
        taken.append(vocabulary[marked + word[start:end]])
        start = end
    return []


def parts_of(data: Data) -> Callable[[int], set[int]]:
    """A function from a token to all that has to be there for it: itself, and with BPE what it is merged of."""
    model, ids = data["model"], token_ids(data)
    if model["type"] != "BPE":
        return lambda number: {number}
    tokens = {number: token for token, number in ids.items()}
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(_merges(model))))}

    def parts(number: int) -> set[int]:
        token = tokens.get(number, "")
        return {number, *(ids[made] for made in _merged(token, ranks, prefix, suffix) if made in ids)}

    return parts


def _merged(token: str, ranks: Mapping[tuple[str, str], int], prefix: str, suffix: str) -> Iterator[str]:
    """What BPE makes on the way to ``token``, which it makes in a longer word as it does from the token alone."""
    body, end = token.removeprefix(prefix), suffix if suffix and token.endswith(suffix) else ""
    characters = list(body.removesuffix(end)) if end else list(body)
    pieces = [prefix + c if i or token != body else c for i, c in enumerate(characters)]
    if end and pieces:
        pieces[-1] += end
    yield from pieces
    while True:
        pairs = [(ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(pieces))]
        rank, at = min(pairs, default=(len(ranks), 0))
        if rank == len(ranks):
            return
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1].removeprefix(prefix)]
        yield pieces[at]


def _merges(model: Data) -> list[tuple[str, str]]:
    """Pairs, the lowest rank first; older files have each in one string."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(first, second) for first, second in pairs]


def without(data: Data, kept: Sequence[int]) -> dict[str, Any]:
    """tokenizer.json with the tokens ``kept`` alone; the first of them gets the id 0, the next 1.

    Args:
        data: The whole.
        kept: Ids of the model's tokens first, each once.
    """
    new, trimmed = {old: number for number, old in enumerate(kept)}, copy.deepcopy(dict(data))
    model = trimmed["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in kept if old < len(model["vocab"])]
        model["unk_id"] = new.get(model["unk_id"])
    else:
        model["vocab"] = {token: new[old] for token, old in model["vocab"].items() if old in new}
    if model["type"] == "BPE":
        prefix, left = model.get("continuing_subword_prefix") or "", model["vocab"]
        model["merges"] = [
            [a, b] for a, b in _merges(model) if a in left and b in left and a + b.removeprefix(prefix) in left
        ]
    for added in trimmed["added_tokens"]:
        added["id"] = new[added["id"]]
    trimmed["added_tokens"].sort(key=lambda added: added["id"])
    trimmed["post_processor"] = _renumbered(trimmed["post_processor"], new)
    trimmed["truncation"] = trimmed["padding"] = None  # they hold ids, and whoever encodes decides on both
    return trimmed


def _ids_of(processor: Any) -> Iterator[int]:
    """The ids that a post-processor inserts."""
    if isinstance(processor, list):
        for part in processor:
            yield from _ids_of(part)
    elif isinstance(processor, dict):
        yield from processor.get("ids", ())
        for key, value in processor.items():
            if key in ("cls", "sep"):
                yield value[1]
            else:
                yield from _ids_of(value)


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with other ids."""
    if isinstance(processor, list):
        return [_renumbered(part, new) for part in processor]
    if not isinstance(processor, dict):
        return processor
    found = {}
    for key, value in processor.items():
        if key in ("cls", "sep"):
            found[key] = [value[0], new[value[1]]]
        elif key == "ids":
            found[key] = [new[number] for number in value]
        else:
            found[key] = _renumbered(value, new)
    return found
