"""Stop strings and streaming, over tokens whose borders are not those of characters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from edgeport.generate.config import GenerationConfig
from edgeport.generate.run import generate
from edgeport.generate.stop_strings import StopStrings
from edgeport.generate.streaming import TextStream, pieces
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.generation import StopStringCriteria

TEXT = (
    "The stop sign says stop. Nonstop toppers 👩‍👩‍👧 🇨🇭 🤖 你好,世界!这是一个测试。 "
    "naïve café – Straße → ∑ ไทย한국어 don't stop, won't stop\n\n### Human: ok <|im_end|> 🎉🎉🎉"
)


def byte_level() -> Tokenizer:
    """GPT-2's kind: most characters outside ASCII are several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<|im_end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([TEXT, "stop topper nonstop 你好 世界 🤖🎉"] * 3, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Llama's kind: characters that the vocabulary lacks are tokens like <0xE4>."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in ("▁", "s", "t", "o", "p", "e", "r", "st", "op", "stop", "▁st", "▁stop", "a", "n", "é", "世"):
        vocab[piece] = len(vocab)
    merges = [("s", "t"), ("o", "p"), ("st", "op"), ("▁", "st"), ("▁st", "op")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def word_piece() -> Tokenizer:
    words = ["[UNK]", "stop", "##per", "top", ",", ".", "##s", "non"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = byte_fallback()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


KINDS = {"bytes": byte_level, "fallback": byte_fallback, "words": word_piece, "metaspace": metaspace}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


@pytest.mark.parametrize("skip", [True, False])
def test_the_pieces_are_the_whole(tokenizer: Tokenizer, skip: bool) -> None:
    generator = np.random.default_rng(0)
    vocab = tokenizer.get_vocab_size()
    rows = [generator.integers(0, vocab, length).tolist() for length in (1, 2, 7, 30, 30, 100)]
    rows += [[int(i) for i in generator.integers(max(0, vocab - 16), vocab, 30)], tokenizer.encode(TEXT).ids, []]
    for ids in rows:
        parts = list(pieces(tokenizer, ids, skip_special_tokens=skip))
        assert "".join(parts) == tokenizer.decode(ids, skip_special_tokens=skip)
        assert all(parts)


@pytest.mark.parametrize("kind", ["bytes", "fallback"])
def test_no_half_characters_and_no_long_wait(kind: str) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(TEXT).ids
    stream = TextStream(tokenizer)
    parts = [stream.put(token) for token in ids]
    rest = stream.end()
    assert "".join([*parts, rest]).endswith("🎉🎉🎉")
    assert not any("\ufffd" in part for part in [*parts, rest])
    if kind == "bytes":
        assert len(ids) > len(TEXT) / 2
        assert rest == "", "a character that is complete does not wait for the next"
        assert max(map(len, parts)) < 12


def test_a_stream_starts_again_after_its_end() -> None:
    tokenizer = byte_fallback()
    stream = TextStream(tokenizer)
    ids = tokenizer.encode("stop st").ids
    for _ in range(2):
        assert "".join(map(stream.put, ids)) + stream.end() == "stop st"
    partial = tokenizer.token_to_id("<0xE4>")
    assert (stream.put(partial), stream.end(), stream.end()) == ("", "\ufffd", "")


STOPS = ["stop", "topper", "世界", "。", "🤖", "t, w", "\n\n###", "<|im_end|>", "é", " st", "ss", "op s"]


@pytest.mark.parametrize("kind", ["bytes", "fallback"])
def test_stop_strings_where_transformers_has_them(kind: str) -> None:
    """Each beginning of texts in tokens, real and random."""
    tokenizer = KINDS[kind]()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    generator = np.random.default_rng(1)
    rows = [tokenizer.encode(TEXT).ids, generator.integers(260, tokenizer.get_vocab_size(), 150).tolist()]
    hits = 0
    for stops in [[stop] for stop in STOPS] + [["per", "世界", "stop"]]:
        criteria = StopStringCriteria(wrapped, stops)
        mine = StopStrings(tokenizer, stops)
        for ids in rows:
            for end in range(2, len(ids) + 1):
                expected = bool(criteria(torch.tensor([ids[:end]]), None)[0])
                assert mine.hit(np.array(ids[:end])) == expected, (stops, tokenizer.decode(ids[:end]))
                hits += expected
    assert hits > 10


def test_the_stop_string_stays_in_the_text(reference: Any, wrap: Any, prompts: Any) -> None:
    """As in ``generate``: one token a letter, so that the string is several tokens."""
    letters = [*"abcdef", *(chr(0x4E00 + i) for i in range(91))]
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token=letters[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=letters[0])
    free = generate(wrap(reference), prompts, GenerationConfig.merged({}, {"max_new_tokens": 20}))
    stops = [tokenizer.decode(free[0].tokens[6:9]), tokenizer.decode(free[2].tokens[10:12])]
    for beams in (1, 2):
        options = {"max_new_tokens": 20, "stop_strings": stops, "num_beams": beams}
        ours = generate(wrap(reference), prompts, GenerationConfig.merged({}, options), tokenizer=tokenizer)
        for row, prompt in zip(ours, prompts, strict=True):
            out = reference.generate(torch.tensor([prompt]), **options, tokenizer=wrapped, pad_token_id=0)
            assert list(row.tokens) == out[0, len(prompt) :].tolist()
        if beams == 1:
            assert (ours[0].reason, ours[2].reason) == ("stop", "stop")
            assert tokenizer.decode(ours[0].tokens).endswith(tuple(stops))
            assert len(ours[0].tokens) <= 9
