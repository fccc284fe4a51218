"""Text in a form: whatever the model would rather say, what comes out is valid, with every kind of vocabulary."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from edgeport.errors import MissingExtraError, UsageError
from edgeport.generate.config import GenerationConfig
from edgeport.generate.constrain import constraint_of
from edgeport.generate.run import generate
from edgeport.generate.search import collect, search
from edgeport.generate.speculate import PromptLookup, ReadAhead
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

pytest.importorskip("llguidance")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "é"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
REGEX = r"[A-Z][a-z]{1,4} [0-9]{2}"
CHOICES = ["yes", "yes, my lord", "no", "世界", "a.b*\n"]
EOS = 1
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = [
    "▁",
    "y",
    "e",
    "s",
    "ye",
    "yes",
    "▁yes",
    "n",
    "o",
    "no",
    "▁my",
    "lord",
    '"',
    "{",
    "}",
    '{"',
    "name",
    "世界",
    "1",
]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([json.dumps({"name": "x", "age": 1, "tags": ["a"]}), *CHOICES] * 3, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Llama 2's kind."""
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(["<pad>", "</s>", "<unk>", *BYTES, *PIECES]))}
    merges = [("y", "e"), ("ye", "s"), ("▁", "yes"), ("n", "o"), ("{", '"')]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def unigram() -> Tokenizer:
    """T5's kind: Metaspace, which llguidance does not read by itself."""
    letters = [chr(code) for code in range(33, 127)] + ["é", "世", "界", "\n"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(piece, -float(i)) for i, piece in enumerate(dict.fromkeys([*PIECES, *letters]), 1)]
    tokenizer = Tokenizer(models.Unigram(pieces, 2, False))
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def unigram_fallback() -> Tokenizer:
    """Metaspace, and bytes for what the vocabulary lacks."""
    tokenizer = unigram()
    pieces = [(tokenizer.id_to_token(i), -float(i)) for i in range(tokenizer.get_vocab_size())]
    pieces = [piece for piece in pieces if piece[0] not in "é世界"] + [(piece, -200.0) for piece in BYTES]
    tokenizer.model = models.Unigram(pieces, 2, True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer


KINDS = {"bytes": byte_level, "fallback": byte_fallback, "unigram": unigram, "unigram-bytes": unigram_fallback}


class Babbler:
    """Logits that are random functions of the whole row; it loves to end, and to say special tokens."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.rows: list[list[int]] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        self.rows = [list(prompt) for prompt in prompts]
        return self._logits(self.rows)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        self.rows = [[*row, int(token)] for row, token in zip(self.rows, tokens, strict=True)]
        return self._logits(self.rows)

    def extend(self, tokens: Sequence[int]) -> np.ndarray:
        logits = [self.step(np.array([token]))[0] for token in tokens]
        return np.stack(logits)

    def truncate(self, length: int) -> None:
        self.rows = [self.rows[0][:length]]

    def reorder(self, rows: np.ndarray) -> None:
        self.rows = [self.rows[row] for row in rows]

    def _logits(self, rows: list[list[int]]) -> np.ndarray:
        logits = np.stack([np.random.default_rng(row).standard_normal(self.vocab_size) for row in rows])
        logits[:, :3] += 5
        return logits.astype(np.float32)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


def config(**options: Any) -> GenerationConfig:
    return GenerationConfig.merged({}, {"max_new_tokens": 200, "eos_token_id": EOS, **options})


def written(
    tokenizer: Tokenizer, more: int = 0, prompts: Any = ((5, 6), (7,), (8, 9, 10)), **options: Any
) -> list[str]:
    """The texts, all of which have to have ended by themselves."""
    model = Babbler(tokenizer.get_vocab_size() + more)
    rows = generate(model, prompts, config(**options), tokenizer=tokenizer)
    assert {row.reason for row in rows} == {"eos"}
    assert all(EOS not in row.tokens[:-1] for row in rows)
    # As a text that goes on: decoders take a space from the beginning of a text.
    before = tokenizer.encode("n", add_special_tokens=False).ids
    return [tokenizer.decode([*before, *row.tokens]).removeprefix(tokenizer.decode(before)) for row in rows]


WAYS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "seed": 1, "temperature": 2.0, "top_k": 0, "num_return_sequences": 3},
    {"num_beams": 2},
    {"num_beams": 6, "num_return_sequences": 6},
    {"num_beams": 2, "do_sample": True, "seed": 1},
    {"repetition_penalty": 1.2},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_schema(tokenizer: Tokenizer, way: dict[str, Any]) -> None:
    for schema in (SCHEMA, json.dumps(SCHEMA)):
        for text in written(tokenizer, json_schema=schema, **way):
            value = json.loads(text)
            assert list(value) == ["name", "age", "tags"]
            assert len(value["name"]) <= 8
            assert 0 <= value["age"] <= 99
            assert set(value["tags"]) <= {"a", "é"}
            assert text == json.dumps(value, ensure_ascii=False) or "\\" in text, "no white space to wander in"


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_an_expression_and_a_choice(tokenizer: Tokenizer, way: dict[str, Any]) -> None:
    for text in written(tokenizer, regex=REGEX, **way):
        assert re.fullmatch(REGEX, text)
    for text in written(tokenizer, choice=CHOICES, **way):
        assert text in CHOICES


def test_every_choice_can_be_made(tokenizer: Tokenizer) -> None:
    seen = {
        text
        for seed in range(60)
        for text in written(
            tokenizer, prompts=[(5,)], choice=CHOICES, do_sample=True, temperature=9.0, top_k=0, seed=seed
        )
    }
    assert seen == set(CHOICES)


def test_columns_that_are_no_tokens_are_never_chosen(tokenizer: Tokenizer) -> None:
    assert set(written(tokenizer, more=70, choice=["yes", "no"])) <= {"yes", "no"}


def test_guessing_changes_nothing(tokenizer: Tokenizer) -> None:
    settings = config(json_schema=SCHEMA)
    size = tokenizer.get_vocab_size()
    plain = generate(Babbler(size), [[5, 6, 5]], settings, tokenizer=tokenizer)
    reader = ReadAhead(Babbler(size), PromptLookup(5, 2), settings)
    assert collect(search(reader, [[5, 6, 5]], settings, tokenizer=tokenizer)) == plain


def test_the_mask_is_a_function_of_the_row() -> None:
    """Rows in any order, repeated, gone back, and never seen before."""
    tokenizer = byte_level()
    size = tokenizer.get_vocab_size()
    ids = tokenizer.encode('{"name": "x", "age": 1').ids
    scores = np.zeros((1, size), np.float32)
    expected = []
    for end in range(len(ids)):
        constraint = constraint_of(config(json_schema=SCHEMA), tokenizer, size)
        assert constraint is not None
        expected.append(constraint.mask([np.array([9, *ids[:end]])], scores, [1])[0])
        assert expected[-1][ids[end]] == 0
    assert constraint is not None
    ends = np.random.default_rng(0).integers(0, len(ids), 60)
    for group in ends.reshape(20, 3):
        rows = [np.array([9, 9, *ids[:end]]) for end in group]
        found = constraint.mask(rows, np.zeros((3, size), np.float32), [2] * 3)
        np.testing.assert_array_equal(found, [expected[end] for end in group])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"json_schema": {"type": "foo"}}, r"json_schema=.* is not supported \(Invalid type: foo\): mend it\.$"),
        ({"regex": "(a|b"}, r"regex='\(a\|b' is not supported \(unclosed group\): mend it\.$"),
        ({"regex": "(?=a)b"}, "look-around, including look-ahead and look-behind, is not supported"),
    ],
)
def test_what_is_no_form(tokenizer: Tokenizer, options: dict[str, Any], message: str) -> None:
    for beams in (1, 2):
        with pytest.raises(UsageError, match=message) as caught:
            written(tokenizer, num_beams=beams, **options)
        assert "\n" not in str(caught.value)


def test_a_form_that_the_other_options_forbid(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        UsageError, match="no token is left to choose from: the options forbid all that the form allows"
    ):
        written(tokenizer, choice=["no"], min_new_tokens=9)
    with pytest.raises(UsageError, match=r"choice=\('no',\) needs a tokenizer"):
        generate(Babbler(9), [[5]], config(choice=["no"]))


def test_without_llguidance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"regex needs packages .* pip install 'edgeport\[constrained\]'"):
        written(byte_level(), regex="a")
