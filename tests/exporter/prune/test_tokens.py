"""Tokenizers of all models with fewer tokens, against the tokenizers library's own encoding with all of them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from edgeport.errors import UsageError
from edgeport_export.prune.tokens import Text, always, parts_of, token_ids, used, without
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SYLLABLES = ("ba", "ber", "ch", "den", "er", "ing", "ka", "lo", "mor", "ne", "ster", "th", "un", "vi", "zo")
STRANGE = (
    "",
    " ",
    "xylophone quartz",
    "naïve Zürich",
    "🚢 ships",
    "tab\tand\nline",
    "中文 too",
    "[MASK] <mask>",
    "a" * 300,
)


def sentences(seed: int, count: int, stems: int = 300) -> list[str]:
    """Words of syllables, some much more often than others."""
    known, chance = random.Random(7), random.Random(seed)
    words = ["".join(known.choice(SYLLABLES) for _ in range(known.randint(1, 4))) for _ in range(stems)]
    return [
        " ".join(words[min(int(chance.expovariate(0.02)), stems - 1)] for _ in range(chance.randint(1, 9)))
        for _ in range(count)
    ]


LEARNT = sentences(0, 2000)
CORPUS = sentences(1, 40, stems=60)


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=40))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        LEARNT, trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    )
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.add_special_tokens(["[MASK]"])  # behind the model's own tokens
    made.enable_truncation(16)
    made.enable_padding(pad_id=0)
    return made


def byte_level_bpe(**more: Any) -> Tokenizer:
    made = Tokenizer(models.BPE(**more))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        LEARNT, trainers.BpeTrainer(vocab_size=700, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    )
    made.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    made.add_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    return made


def bpe_of_words_ends() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        LEARNT, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], end_of_word_suffix="</w>")
    )
    return made


def bpe_of_continued_words() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(
        LEARNT, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], continuing_subword_prefix="##")
    )
    return made


def bpe_of_sentences() -> Tokenizer:
    """As sentencepiece's: no words, bytes for what is unknown; merges in one string each, as old files have them."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    made.train_from_iterator(LEARNT, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"]))
    data = json.loads(made.to_str())
    for byte in range(256):
        data["model"]["vocab"][f"<0x{byte:02X}>"] = len(data["model"]["vocab"])
    data["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    return Tokenizer.from_str(json.dumps(data))


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        LEARNT, trainers.UnigramTrainer(vocab_size=300, special_tokens=["<pad>", "<unk>"], unk_token="<unk>")
    )
    made.add_special_tokens(["</s>"])
    end = made.token_to_id("</s>")
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", end)]
    )
    return made


def word_level() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(LEARNT, trainers.WordLevelTrainer(vocab_size=400, special_tokens=["<unk>"]))
    return made


TOKENIZERS = {
    "WordPiece": word_piece,
    "byte-level BPE": byte_level_bpe,
    "BPE that takes whole words first": lambda: byte_level_bpe(ignore_merges=True),
    "BPE of words' ends": bpe_of_words_ends,
    "BPE of continued words": bpe_of_continued_words,
    "BPE of sentences": bpe_of_sentences,
    "Unigram": unigram,
    "WordLevel": word_level,
}


def trimmed(whole: Tokenizer, texts: Sequence[Text]) -> tuple[Tokenizer, list[int]]:
    data, plain = json.loads(whole.to_str()), Tokenizer.from_str(whole.to_str())
    plain.no_truncation()
    plain.no_padding()
    stays = always(data).union(*map(parts_of(data), used(plain, data, texts)))
    own = set(token_ids({**data, "added_tokens": []}).values())
    kept = sorted(stays & own) + sorted(stays - own)
    return Tokenizer.from_str(json.dumps(without(data, kept))), kept


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_corpus_gives_the_same_pieces_and_other_texts_smaller_ones(name: str) -> None:
    whole = TOKENIZERS[name]()
    small, kept = trimmed(whole, CORPUS)
    whole.no_truncation()
    whole.no_padding()
    assert small.get_vocab_size() == len(kept) < 0.8 * whole.get_vocab_size()
    for text in CORPUS:
        before, after = whole.encode(text), small.encode(text)
        assert [kept[i] for i in after.ids] == before.ids
        assert (after.tokens, after.type_ids) == (before.tokens, before.type_ids)
        assert small.decode(after.ids) == whole.decode(before.ids)
    pairs = [(whole.encode(text).ids, small.encode(text).ids) for text in sentences(2, 40)]
    assert any(len(after) > len(before) for before, after in pairs) == (name != "WordLevel")
    for text in STRANGE:
        small.encode(text)
    if name.startswith("byte"):
        assert all(small.decode(small.encode(text).ids) == text for text in STRANGE[:5])


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if "whole words first" not in name])
def test_what_is_left_is_needed(name: str) -> None:
    """Without any one more of the pieces that the corpus made, some text of the corpus is read otherwise."""
    whole = TOKENIZERS[name]()
    data = json.loads(whole.to_str())
    _, kept = trimmed(whole, CORPUS[:4])
    whole.no_truncation()
    whole.no_padding()
    for gone in random.Random(0).sample(sorted(set(kept) - always(data)), 4):
        left = [number for number in kept if number != gone]
        small = Tokenizer.from_str(json.dumps(without(data, left)))
        assert any([left[i] for i in small.encode(text).ids] != whole.encode(text).ids for text in CORPUS[:4])


def test_a_word_that_word_piece_cannot_write_stays_unknown() -> None:
    vocabulary = {t: i for i, t in enumerate(("[UNK]", "a", "##b", "##c", "abc", "##c!", "##d", "abd"))}
    whole = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    texts = ["abc!", "ab ac!"]
    small, kept = trimmed(whole, texts)
    assert [small.encode(text).tokens for text in texts] == [whole.encode(text).tokens for text in texts]
    assert vocabulary["abc"] in kept  # taken before the exclamation mark was missing
    assert vocabulary["abd"] not in kept


def test_an_unknown_character_costs_what_it_did() -> None:
    """What counts for one is below the worst piece's score, also where the corpus does not need that one."""
    pieces = [("<unk>", 0.0), ("z", -25.0), ("xy", -30.0), ("yz", -1.0), ("worst", -100.0), ("bad", -90.0)]
    whole = Tokenizer(models.Unigram(pieces, unk_id=0))
    small, kept = trimmed(whole, ["xyz", "yz"])
    assert small.encode("xyz").tokens == whole.encode("xyz").tokens == ["xy", "z"]
    assert kept == [0, 1, 2, 3, 4]


def test_words_and_texts_may_give_other_pieces() -> None:
    whole = byte_level_bpe()
    words = CORPUS[0].split() * 2
    small, kept = trimmed(whole, [words])
    again = small.encode(words, is_pretokenized=True)
    assert [kept[i] for i in again.ids] == whole.encode(words, is_pretokenized=True).ids


def test_special_tokens_stay_and_are_inserted_under_their_new_ids() -> None:
    small, kept = trimmed(word_piece(), CORPUS)
    encoded = small.encode(CORPUS[0] + " [MASK]")
    assert (encoded.tokens[0], encoded.tokens[-1], encoded.tokens[-2]) == ("[CLS]", "[SEP]", "[MASK]")
    assert encoded.ids[-2] == small.token_to_id("[MASK]") == len(kept) - 1
    assert encoded.ids == [small.token_to_id(token) for token in encoded.tokens]


def test_a_tokenizer_without_a_table_is_refused() -> None:
    with pytest.raises(UsageError, match="a tokenizer of Bytes has no vocabulary to trim: leave vocabulary away"):
        token_ids({"model": {"type": "Bytes"}, "added_tokens": []})
