"""Tiny tokenizers and tiny random models, each wrapped twice: for transformers, and for a pipeline of ours.

The pipelines run on a fake session that calls the torch model, so that only the pipelines are compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from edgeport.bundle import Bundle, Manifest, ModelSource, TensorSpec, TextSpec, Variant
from edgeport.tasks import Pipeline, pipeline_class
from edgeport.text import TextEncoder
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

torch.set_num_threads(1)

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and it doesn't care.",
    "Marie Curie was born in Warsaw; she worked in Paris (France) and won two Nobel prizes.",
    "I live in Berlin. My name is Wolfgang, and I like apples, pears and plums!",
    "Is this film any good? No: the plot is thin, the acting wooden, and the end absurd.",
    "Über den Wolken muss die Freiheit wohl grenzenlos sein, naïve café.",
    "Edge devices have little memory; models must be small, fast and correct.",
]

KINDS = ("wordpiece", "bpe", "unigram")
MAX_LENGTH = 64


ROBERTA_TOKENS = {
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
WORDS = sorted({word for text in CORPUS for word in re.findall(r"\w+", text)})


def _wordpiece() -> transformers.PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word.lower() for word in WORDS})
    characters = sorted({c for text in CORPUS for c in text.lower() if not c.isspace()})
    pieces = [w for w in words if len(w) <= 4] + [w[:3] for w in words] + [f"##{w[-3:]}" for w in words]
    vocab = [*special, *characters, *(f"##{c}" for c in characters), *pieces]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(dict.fromkeys(vocab))}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return _wrap(tokenizer, dict(zip(names, special, strict=True)), types=True)


def _bpe() -> transformers.PreTrainedTokenizerFast:
    prefixes = [f"\u0120{w}"[:n] for w in WORDS if w.isascii() for n in range(2, min(len(w), 5) + 1)]
    merges = dict.fromkeys((p[:-1], p[-1]) for p in prefixes)
    vocab = [*ROBERTA_TOKENS.values(), *sorted(pre_tokenizers.ByteLevel.alphabet()), *prefixes]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(dict.fromkeys(vocab))}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return _wrap(tokenizer, ROBERTA_TOKENS, types=False)


def _unigram() -> transformers.PreTrainedTokenizerFast:
    characters = sorted({c for text in CORPUS for c in text if not c.isspace()})
    pieces = [f"\u2581{w}"[:5] for w in WORDS] + [w[-3:] for w in WORDS if len(w) > 4]
    vocab = [(t, 0.0) for t in ROBERTA_TOKENS.values()] + [("\u2581", -4.0)] + [(c, -6.0) for c in characters]
    vocab += [(p, -3.0 - 0.01 * i) for i, p in enumerate(sorted(set(pieces) - set(characters)))]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)]
    )
    return _wrap(tokenizer, ROBERTA_TOKENS, types=False)


def _wrap(tokenizer: Tokenizer, special: dict[str, str], *, types: bool) -> transformers.PreTrainedTokenizerFast:
    names = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=MAX_LENGTH, model_input_names=names, **special
    )


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, transformers.PreTrainedTokenizerFast]:
    return {"wordpiece": _wordpiece(), "bpe": _bpe(), "unigram": _unigram()}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of tokenizer in turn, with an architecture that uses it."""
    return str(request.param)


def text_spec(tokenizer: transformers.PreTrainedTokenizerFast, **changes: Any) -> TextSpec:
    special = {k: str(v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
    values: dict[str, Any] = {
        "max_length": tokenizer.model_max_length,
        "pad_token_id": tokenizer.pad_token_id,
        "pad_token": tokenizer.pad_token,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "special_tokens": special,
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
    }
    values |= changes
    # Padding on the left moves the text, and the models here count positions from the left.
    values.setdefault("maskable_padding", values["padding_side"] == "right")
    return TextSpec(**values)


def text_encoder(tokenizer: transformers.PreTrainedTokenizerFast, **changes: Any) -> TextEncoder:
    return TextEncoder(Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), text_spec(tokenizer, **changes))


CONFIGS: dict[str, Callable[..., Any]] = {
    "wordpiece": transformers.BertConfig,
    "bpe": transformers.RobertaConfig,
    "unigram": transformers.XLMRobertaConfig,
    "fnet": transformers.FNetConfig,
}


def tiny_model(
    auto: Any,
    kind: str,
    tokenizer: transformers.PreTrainedTokenizerFast,
    labels: list[str] | None = None,
    **config: Any,
) -> torch.nn.Module:
    """A random model of the auto class's task, the same for the same arguments."""
    torch.manual_seed(7)
    names = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}} if labels else {}
    made = CONFIGS[kind](
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=MAX_LENGTH + 8,
        initializer_range=0.15,
        pad_token_id=tokenizer.pad_token_id,
        **names,
        **config,
    )
    model = auto.from_config(made).eval()
    with torch.no_grad():  # or all tokens look alike to a random model, and the comparison compares little
        model.get_input_embeddings().weight *= 10
        for name, parameter in model.named_parameters():
            if name.startswith("classifier"):
                parameter *= 5
    return model


@dataclass
class FakeSession:
    """Runs a torch model in place of a graph, and remembers the shapes that it saw."""

    model: Any
    outputs: Mapping[str, str]
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    closed: bool = False
    tokens_at_once: int = 2**15

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert all(a.dtype == np.int64 for a in feeds.values())
        self.shapes.append(feeds["input_ids"].shape)
        with torch.no_grad():
            result = self.model(**{k: torch.from_numpy(v) for k, v in feeds.items()})
        return {name: result[key].numpy() for name, key in self.outputs.items()}

    def report(self) -> str:
        return "fake"

    def close(self) -> None:
        self.closed = True


OUTPUTS = {
    "feature-extraction": {"last_hidden_state": "last_hidden_state"},
    "sentence-embedding": {"sentence_embedding": "sentence_embedding"},
    "question-answering": {"start_logits": "start_logits", "end_logits": "end_logits"},
}


def fake_bundle(task: str, spec: TextSpec, inputs: list[str], labels: list[str], options: Mapping[str, Any]) -> Bundle:
    manifest = Manifest(
        task=task,
        source=ModelSource("tiny", "Tiny", "tiny"),
        variants={"fp32": Variant("fp32", {"model": "model.fp32.onnx"}, 1, 20, "1.20")},
        inputs=tuple(TensorSpec(n, "int64", ("batch", "sequence")) for n in inputs),
        outputs=tuple(
            TensorSpec(n, "float32", ("batch", len(labels) or 32)) for n in OUTPUTS.get(task, {"logits": ""})
        ),
        files={},
        text=spec,
        labels=tuple(labels),
        task_options=options,
    )
    return Bundle(Path("nowhere"), manifest)


def make_pipeline(
    task: str,
    model: Any,
    tokenizer: transformers.PreTrainedTokenizerFast,
    *,
    labels: list[str] | None = None,
    options: Mapping[str, Any] | None = None,
    inputs: list[str] | None = None,
    batch_size: int = 32,
    **spec: Any,
) -> Any:
    """Our pipeline around ``model``; ``spec`` changes the TextSpec."""
    encoder = text_encoder(tokenizer, **spec)
    bundle = fake_bundle(task, encoder.spec, inputs or list(tokenizer.model_input_names), labels or [], options or {})
    session = FakeSession(model, OUTPUTS.get(task, {"logits": "logits"}))
    pipeline: Pipeline = pipeline_class(task)(bundle, session, encoder, batch_size=batch_size)
    return pipeline


@pytest.fixture(scope="session")
def make() -> Callable[..., Any]:
    return make_pipeline


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    return tiny_model


@pytest.fixture(scope="session")
def encoder() -> Callable[..., TextEncoder]:
    return text_encoder


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return CORPUS


@pytest.fixture(scope="session")
def long_text() -> str:
    """Several times the tiny models' length."""
    return " ".join(CORPUS)


@pytest.fixture(autouse=True)
def quiet_transformers() -> None:
    transformers.logging.set_verbosity_error()


def _assert_same(ours: Any, theirs: Any, path: str = "result", tolerance: float = 1e-5) -> None:
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs) or sorted(ours) == sorted(theirs), path
        for key in theirs:
            _assert_same(ours[key], theirs[key], f"{path}[{key!r}]", tolerance)
    elif isinstance(theirs, list):
        assert isinstance(ours, list), path
        assert len(ours) == len(theirs), path
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            _assert_same(a, b, f"{path}[{i}]", tolerance)
    elif isinstance(theirs, float | np.floating):
        assert isinstance(ours, float), path
        assert math.isclose(ours, float(theirs), rel_tol=tolerance, abs_tol=tolerance), f"{path}: {ours} and {theirs}"
    else:
        assert type(ours) is type(theirs), path
        assert ours == theirs, f"{path}: {ours!r} and {theirs!r}"


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Same nesting, keys, values and types; floats to a tolerance."""
    return _assert_same
