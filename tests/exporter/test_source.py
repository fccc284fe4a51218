"""Loading: what is inferred from a folder, and one sentence for each way in which a model cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from architectures import tiny_config as tiny_config_of
from edgeport.errors import EdgeportError, ExportError, UsageError
from edgeport_export.capture import capture
from edgeport_export.head import ExportHead
from edgeport_export.recipe import Recipe
from edgeport_export.samples import capture_batch, validation_batches
from edgeport_export.source import load_source
from edgeport_export.tasks import TASKS, infer_task, resolve_task
from tiny_models import make_tokenizer, tiny_config
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    BartForConditionalGeneration,
    BertForSequenceClassification,
    BertLMHeadModel,
    PreTrainedTokenizerFast,
)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny classifier that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _refusal(model: object, recipe: Recipe | None = None) -> EdgeportError:
    with pytest.raises(EdgeportError) as caught:
        load_source(model, recipe or Recipe())  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return caught.value


def test_a_folder_is_loaded_in_fp32(folder: Path) -> None:
    source = load_source(folder, Recipe())
    assert source.task.name == "text-classification"
    assert source.id == "model"
    assert source.max_length == 128
    assert {parameter.dtype for parameter in source.model.parameters()} == {torch.float32}
    assert not source.model.training


def test_the_hash_is_that_of_the_weights(folder: Path) -> None:
    first = load_source(folder, Recipe())
    second = load_source(folder, Recipe())
    assert first.weights_sha256() == second.weights_sha256()
    with torch.no_grad():
        next(second.model.parameters()).add_(1e-3)
    assert first.weights_sha256() != second.weights_sha256()


def test_a_file_is_no_model(folder: Path) -> None:
    error = _refusal(folder / "config.json")
    assert isinstance(error, UsageError)
    assert "is a file" in str(error)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "no config.json" in str(_refusal(tmp_path))


@pytest.mark.parametrize("name", ["no/such/model", "./nowhere", "a b", "nobody/there"])
def test_a_model_that_does_not_exist(name: str) -> None:
    error = _refusal(name)
    assert isinstance(error, UsageError)
    assert repr(name) in str(error)


def test_an_unknown_task(folder: Path) -> None:
    error = _refusal(folder, Recipe(task="painting"))
    assert isinstance(error, UsageError)
    assert "painting" in str(error)
    assert all(task in str(error) for task in TASKS)


def test_a_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert",')
    assert isinstance(_refusal(folder), ExportError)


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_truncated_weights(folder: Path, keep: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    error = _refusal(folder)
    assert isinstance(error, ExportError)
    assert "download the model again" in str(error)


def test_corrupt_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"\xff" * 64 + weights.read_bytes()[64:])
    assert isinstance(_refusal(folder), ExportError)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert isinstance(_refusal(folder), EdgeportError)


def test_weights_of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    assert isinstance(_refusal(folder), ExportError)


def test_a_head_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    """A base model has no classifier: transformers would make one up."""
    AutoModel.from_config(tiny_config()).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    error = _refusal(tmp_path, Recipe(task="text-classification"))
    assert isinstance(error, UsageError)
    assert "classifier" in str(error)


def test_no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()
    for file in folder.glob("vocab*"):
        file.unlink()
    assert "tokenizer" in str(_refusal(folder))


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer" in str(_refusal(folder))


def test_the_tokenizer_of_another_model(folder: Path) -> None:
    source = load_source(folder, Recipe())
    source.tokenizer.add_tokens([f"word{i}" for i in range(300)] + ["harbour"])
    with pytest.raises(ExportError, match="do not belong together"):
        capture_batch(source)


def test_a_model_in_memory_needs_its_tokenizer() -> None:
    assert "tokenizer" in str(_refusal(BertForSequenceClassification(tiny_config())))


def test_an_architecture_without_a_task(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForNextSentencePrediction"]}))
    assert "--task" in str(_refusal(folder))


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("DebertaV2ForMaskedLM", "fill-mask"),
        ("XLMWithLMHeadModel", "fill-mask"),
        ("XLNetForQuestionAnsweringSimple", "question-answering"),
        ("MPNetForTokenClassification", "token-classification"),
        ("NewFangledForSequenceClassification", "text-classification"),
        ("ModernBertModel", "feature-extraction"),
        ("GPT2LMHeadModel", "text-generation"),
        ("LlamaForCausalLM", "text-generation"),
        ("BertLMHeadModel", "text-generation"),
    ],
)
def test_the_task_of_an_architecture(architecture: str, task: str) -> None:
    found = infer_task(tiny_config(), architecture=architecture, is_sentence_transformer=False, pipeline_tag=None)
    assert found is TASKS[task]


@pytest.mark.parametrize("architecture", ["BartForConditionalGeneration", "T5ForConditionalGeneration", None])
def test_a_generator_is_not_taken_for_an_encoder(architecture: str | None) -> None:
    with pytest.raises(UsageError, match="--task"):
        infer_task(tiny_config(), architecture=architecture, is_sentence_transformer=False, pipeline_tag=None)


def test_the_model_card_decides_between_tasks_that_share_an_architecture(folder: Path) -> None:
    (folder / "README.md").write_text("---\npipeline_tag: zero-shot-classification\n---\n# A model\n")
    assert load_source(folder, Recipe()).task.name == "zero-shot-classification"


def test_synonyms() -> None:
    assert resolve_task("ner") is TASKS["token-classification"]
    assert resolve_task("sentiment-analysis") is TASKS["text-classification"]


def test_the_encoder_of_an_encoder_decoder(tmp_path: Path) -> None:
    AutoModel.from_config(tiny_config_of("t5")).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    source = load_source(tmp_path, Recipe(task="sentence-embedding"))
    assert type(source.model).__name__ == "T5EncoderModel"
    (vectors,) = ExportHead(source).run(capture_batch(source))
    assert vectors.shape == (3, 32)


# The tokenizer's side.


def _source(tokenizer: PreTrainedTokenizerFast, task: str = "fill-mask", **changes: object):  # type: ignore[no-untyped-def]
    auto = {"fill-mask": AutoModelForMaskedLM, "question-answering": AutoModelForQuestionAnswering}[task]
    return load_source(auto.from_config(tiny_config(**changes)), Recipe(task=task), tokenizer=tokenizer)


def test_no_padding_token() -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    batch = capture_batch(_source(tokenizer))
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"].min() == 0


def test_padding_on_the_left() -> None:
    tokenizer = make_tokenizer()
    tokenizer.padding_side = "left"
    for batch in validation_batches(_source(tokenizer)):
        assert (batch["attention_mask"][:, -1] == 1).all()


@pytest.mark.parametrize("task", ["fill-mask", "question-answering"])
@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_a_model_of_a_few_tokens(task: str, length: int) -> None:
    source = _source(make_tokenizer(), task, max_position_embeddings=length)
    head = ExportHead(source)
    for batch in (capture_batch(source), *validation_batches(source)):
        assert batch["input_ids"].shape[1] <= length
        assert torch.isfinite(head.run(batch)[0]).all()


def test_positions_that_start_behind_the_padding_index() -> None:
    model = AutoModelForMaskedLM.from_config(tiny_config_of("roberta", max_position_embeddings=40))
    assert load_source(model, Recipe(), tokenizer=make_tokenizer()).max_length == 38


def test_a_model_that_wants_more_than_text() -> None:
    from transformers import AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_config(tiny_config_of("bros"))
    source = load_source(model, Recipe(), tokenizer=make_tokenizer())
    with pytest.raises(ExportError, match=r"bbox.*nothing but text\.$"):
        capture(ExportHead(source), capture_batch(source), opset=20)


def test_a_decoder_writes_text() -> None:
    source = load_source(BertLMHeadModel(tiny_config(is_decoder=True)), Recipe(), tokenizer=make_tokenizer())
    assert source.task.name == "text-generation"
    assert source.task_options["vocab_size"] == 128
    assert source.task_options["context_length"] == 128


def test_an_encoder_decoder_says_so() -> None:
    error = _refusal_in_memory(BartForConditionalGeneration(tiny_config_of("bart")))
    assert "BartForConditionalGeneration" in error


def _refusal_in_memory(model: object) -> str:
    with pytest.raises(UsageError) as caught:
        load_source(model, Recipe(), tokenizer=make_tokenizer())  # type: ignore[arg-type]
    return str(caught.value)
