"""text-generation from export to answers, against the pipeline of transformers; a tiny model, and the trained ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import edgeport
import numpy as np
import pytest
import torch
from architectures import tiny_model, tiny_tokenizer
from edgeport.cli import main
from edgeport.errors import InputError, UsageError
from edgeport_export import Recipe, export
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import pipeline as hugging_face

SHARED = Path(__file__).parents[3] / "shared"
needs_shared = pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="the trained checkpoints are not here")

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no such role') }}{% endif %}"
    "{{ m['role'] }}: {{ m['content'] }}{% if not loop.last or m['role'] != 'assistant' %}.{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "where was the train?"}]
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 20}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A bundle of a tiny Llama with a chat template, and transformers' pipeline of the same."""
    tokenizer = tiny_tokenizer()
    tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer, **tokenizer.special_tokens_map, model_max_length=128
    )
    tokenizer.chat_template = TEMPLATE
    model = tiny_model("llama", "text-generation", max_position_embeddings=96)
    out = tmp_path_factory.mktemp("generation") / "bundle"
    manifest = export(model, out, Recipe(precisions=("fp32",)), tokenizer=tokenizer).manifest
    assert manifest.task == "text-generation"
    assert manifest.capture["path"] == "plugged"
    return out, hugging_face("text-generation", model=model, tokenizer=tokenizer)


@pytest.fixture
def pipe(tiny: tuple[Path, Any]) -> Iterator[Any]:
    with edgeport.load(tiny[0], variant="fp32") as loaded:
        yield loaded


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ("the train", {}),
        (["the train", "an hour", "over water and over water"], {}),
        ("the train", {"return_full_text": False}),
        ("the train", {"num_beams": 3, "num_return_sequences": 3}),
        ("the train", {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}),
        ("the train", {"max_new_tokens": None, "max_length": 30}),
        ("the train", {"return_tensors": True}),
        (CHAT, {}),
        ([CHAT, CHAT[1:]], {}),
        ([*CHAT, {"role": "assistant", "content": "it was"}], {}),
        (CHAT, {"return_full_text": False}),
    ],
)
def test_same_as_transformers(tiny: tuple[Path, Any], pipe: Any, inputs: Any, options: dict[str, Any]) -> None:
    options = {**GREEDY, **options}
    theirs = tiny[1](inputs, **{k: v for k, v in options.items() if v is not None})
    ours = pipe(inputs, **{k: v for k, v in options.items() if v is not None})
    assert json.loads(json.dumps(ours)) == json.loads(json.dumps(theirs))


def test_batches_and_iterators_change_nothing(pipe: Any) -> None:
    texts = ["the train", "an hour over water", "was", "over"]
    alone = [pipe(text, **GREEDY) for text in texts]
    assert pipe(texts, batch_size=3, **GREEDY) == alone
    stream = pipe(iter(texts), batch_size=2, **GREEDY)
    assert isinstance(stream, Iterator)
    assert list(stream) == alone


def test_a_stream_is_the_answer_in_pieces(pipe: Any) -> None:
    pieces = list(pipe.stream("the train", **GREEDY))
    assert len(pieces) > 3
    assert "".join(pieces) == pipe("the train", return_full_text=False, **GREEDY)[0]["generated_text"]


def test_a_stream_that_is_left_early_does_no_harm(pipe: Any) -> None:
    wanted = pipe("the train", **GREEDY)
    for _ in pipe.stream("over water and the hour", **GREEDY):
        break
    assert pipe("the train", **GREEDY) == wanted


def test_seeds(pipe: Any) -> None:
    def sample(seed: int) -> Any:
        return pipe("the train", max_new_tokens=20, seed=seed, temperature=2.0)

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_threads_do_not_disturb_each_other(pipe: Any) -> None:
    texts = ["the train", "an hour over water", "was", "over"] * 3
    wanted = [pipe(text, **GREEDY) for text in texts]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i, t=t: found.update({i: pipe(t, **GREEDY)})) for i, t in enumerate(texts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(texts))] == wanted


def test_cancellation(pipe: Any) -> None:
    stop = threading.Event()
    pieces = []
    for piece in pipe.stream("the train", do_sample=False, max_new_tokens=60, cancel=stop):
        pieces.append(piece)
        stop.set()
    assert len(pieces) < 10


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        ("the " * 200, {}, InputError, r"takes 96"),
        (7, {}, InputError, r"takes a text or a list of messages, not int"),
        ("the", {"temprature": 1.0}, UsageError, r"did you mean temperature"),
        ("the", {"do_sample": True, "temperature": -1.0}, UsageError, r"temperature"),
        ([{"role": "user"}], {}, InputError, r"message 1 is not a dictionary with role and content"),
        ([{"role": "pirate", "content": "ahoy"}], {}, InputError, r"no such role"),
    ],
)
def test_bad_input_is_one_sentence_and_the_pipeline_goes_on(
    pipe: Any, inputs: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    wanted = pipe("the train", **GREEDY)
    with pytest.raises(error, match=message):
        pipe(inputs, **{"max_new_tokens": 4, **options})
    assert pipe("the train", **GREEDY) == wanted


def test_log_probabilities_are_those_of_torch(tiny: tuple[Path, Any], pipe: Any, tmp_path: Path, capsys: Any) -> None:
    text = "the train was over the water and an hour was over " * 3
    ids = torch.tensor([tiny[1].tokenizer(text)["input_ids"]])
    window, wanted = 40, []
    with torch.no_grad():
        for start in range(0, ids.shape[1] - 1, window):
            piece = ids[:, start : start + window + 1]
            logs = tiny[1].model(piece[:, :-1]).logits.log_softmax(-1)
            wanted += logs[0].gather(1, piece[0, 1:, None])[:, 0].tolist()
    np.testing.assert_allclose(pipe.logprobs(text, window=window), wanted, atol=1e-4)
    (tmp_path / "text.txt").write_text(text)
    command = ["evaluate", str(tiny[0]), str(tmp_path / "text.txt"), "--window", "40", "--variant", "fp32", "--json"]
    assert main(command) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["metrics"]["perplexity"] == pytest.approx(float(np.exp(-np.mean(wanted))), rel=1e-4)


def test_the_command(tiny: tuple[Path, Any], capsys: Any) -> None:
    argv = ["run", str(tiny[0]), "the train", "--variant", "fp32", "--option", "do_sample=false"]
    assert main([*argv, "--option", "max_new_tokens=20"]) == 0
    assert json.loads(capsys.readouterr().out) == tiny[1]("the train", **GREEDY)


@needs_shared
@pytest.mark.parametrize(("name", "perplexity"), [("gpt2-shakespeare", 100.83), ("llama-shakespeare", 81.49)])
def test_trained_models_keep_their_perplexity(name: str, perplexity: float, tmp_path: Path) -> None:
    folder = SHARED / "models" / name
    text = (SHARED / "data" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    text = text[int(len(text) * 0.9) :]
    export(folder, tmp_path / "b", Recipe(precisions=("fp32", "int8")))
    found = {}
    for variant in ("fp32", "int8"):
        with edgeport.load(tmp_path / "b", variant=variant) as pipe:
            found[variant] = float(np.exp(-pipe.logprobs(text, window=128).astype(np.float64).mean()))
    assert found["fp32"] == pytest.approx(perplexity, rel=1e-3)
    assert found["int8"] < 1.005 * perplexity
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = hugging_face("text-generation", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    with edgeport.load(tmp_path / "b", variant="fp32") as pipe:
        assert pipe("ROMEO:\n", **GREEDY) == theirs("ROMEO:\n", **GREEDY)
