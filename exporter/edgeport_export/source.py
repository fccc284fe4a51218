"""Load what is to be exported: a hub id, a folder, or a model already in memory.

Knows transformers' loaders and the files beside the weights; knows nothing of graphs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from edgeport.errors import ExportError, UsageError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from edgeport_export.generation import generation_options
from edgeport_export.messages import first_line
from edgeport_export.packed_source import load_packed, packed_format
from edgeport_export.quantize.blockwise import Quantized
from edgeport_export.recipe import Recipe
from edgeport_export.sentence import SentenceHead, load_sentence_head
from edgeport_export.tasks import ExportTask, infer_task, resolve_task

__all__ = ["Source", "load_source", "settle_task", "sha256_of_weights"]


@dataclass
class Source:
    """A model with all that its export needs."""

    id: str
    revision: str | None
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: ExportTask
    sentence_head: SentenceHead | None = None
    """Pooling, dense layers and normalization, where the task is sentence-embedding."""
    task_options: dict[str, Any] = field(default_factory=dict)
    max_length: int = 512
    pruning: Mapping[str, Any] = field(default_factory=dict)
    """What was cut out of the model since it was loaded."""
    integers: Mapping[str, Quantized] = field(default_factory=dict)
    """By the names of weights, of a checkpoint that comes quantized: what the weights stand for."""

    @property
    def bits(self) -> int | None:
        """Of a checkpoint that comes quantized."""
        return next((quantized.grid.bits for quantized in self.integers.values()), None)

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    def weights_sha256(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of all weights, in order of name."""
        return sha256_of_weights(self.model.state_dict())


def sha256_of_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_source(
    model: str | Path | PreTrainedModel, recipe: Recipe, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> Source:
    """Load ``model`` in fp32, with its tokenizer, and settle its task.

    Raises:
        UsageError: no such model or task, a file instead of a folder, or a tokenizer that is missing.
        ExportError: the files are there and cannot be read: corrupt weights, a tokenizer that cannot be made fast.
    """
    if isinstance(model, PreTrainedModel):
        if tokenizer is None:
            raise UsageError(f"{type(model).__name__} came without a tokenizer: pass tokenizer=... as well.")
        return _from_memory(model, tokenizer, recipe)
    name = str(model)
    config, task, modules = settle_task(name, recipe)
    loaded, integers = _load_model(name, task, config, recipe)
    source = Source(
        id=_display_name(name, recipe),
        revision=recipe.revision or getattr(config, "_commit_hash", None),
        model=loaded,
        tokenizer=_require_fast(tokenizer or _load_tokenizer(name, recipe), name),
        task=task,
        task_options=task.options(config),
        integers=integers,
    )
    source.max_length = _max_length(source)
    if task.name == "sentence-embedding":
        _add_sentence_head(source, name, modules, recipe)
    if task.generates:
        source.task_options = generation_options(source.model, source.tokenizer)
    return source


def settle_task(name: str, recipe: Recipe) -> tuple[PretrainedConfig, ExportTask, Any]:
    """Config, task and ``modules.json`` (None where there is none) of a hub id or folder, without loading weights.

    Raises:
        UsageError: no such model or task, or a file instead of a folder.
    """
    _check_exists(name)
    config = _load_config(name, recipe)
    modules = _read_json(name, "modules.json", recipe)
    if recipe.task:
        return config, resolve_task(recipe.task), modules
    task = infer_task(
        config,
        architecture=(getattr(config, "architectures", None) or [None])[0],
        is_sentence_transformer=isinstance(modules, list),
        pipeline_tag=_pipeline_tag(name, recipe),
    )
    return config, task, modules


def _from_memory(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Source:
    architecture = type(model).__name__
    task = (
        resolve_task(recipe.task)
        if recipe.task
        else infer_task(model.config, architecture=architecture, is_sentence_transformer=False, pipeline_tag=None)
    )
    source = Source(
        id=getattr(model.config, "_name_or_path", "") or architecture,
        revision=getattr(model.config, "_commit_hash", None),
        model=model.float().eval(),
        tokenizer=_require_fast(tokenizer, architecture),
        task=task,
        task_options=task.options(model.config),
    )
    source.max_length = _max_length(source)
    if task.name == "sentence-embedding":
        source.sentence_head = SentenceHead.mean_pooling()
    if task.generates:
        source.task_options = generation_options(source.model, source.tokenizer)
    return source


def _display_name(name: str, recipe: Recipe) -> str:
    """The hub id; for a folder the model card's title where that looks like a model's name, else the folder's name."""
    if not Path(name).is_dir():
        return name
    card = _cached(name, "README.md", recipe)
    text = card.read_text(encoding="utf-8", errors="replace") if card else ""
    title = re.search(r"^# +([\w.\-]+(?:/[\w.\-]+)?)\s*$", text, re.MULTILINE)
    return title.group(1) if title else Path(name).resolve().name


def _check_exists(name: str) -> None:
    path = Path(name)
    if path.is_file():
        raise UsageError(f"{name!r} is a file: give the model's folder, the one with config.json in it.")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"{name!r} has no config.json: give a folder that `save_pretrained` wrote, or a hub id.")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)?", name):
        raise UsageError(f"{name!r} is neither a folder nor a hub id (owner/name): check the path.")


def _load_config(name: str, recipe: Recipe) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(name, revision=recipe.revision, trust_remote_code=recipe.trust_remote_code)
    except Exception as e:
        raise _explain(name, e) from e


def _load_model(
    name: str, task: ExportTask, config: PretrainedConfig, recipe: Recipe
) -> tuple[PreTrainedModel, Mapping[str, Quantized]]:
    """The model, and the integers that it came in."""
    auto = getattr(transformers, task.auto_class)
    encoders = transformers.AutoModelForTextEncoding
    if auto is transformers.AutoModel and config.is_encoder_decoder and type(config) in encoders._model_mapping:
        auto = encoders  # the half that reads; the half that writes would want something to begin with
    form = packed_format(config)
    integers: Mapping[str, Quantized] = {}
    try:
        if form is not None:
            model, report, integers = load_packed(
                auto,
                config,
                form,
                lambda file: _cached(name, file, recipe),
                trust_remote_code=recipe.trust_remote_code,
            )
            if model.can_generate() and _cached(name, "generation_config.json", recipe):
                model.generation_config = GenerationConfig.from_pretrained(name, revision=recipe.revision)
        else:
            model, report = auto.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                revision=recipe.revision,
                trust_remote_code=recipe.trust_remote_code,
                output_loading_info=True,
            )
    except ExportError:
        raise
    except Exception as e:
        raise _explain(name, e) from e
    # A pooler does nothing for token embeddings; anything else that is missing would be made up at random.
    missing = sorted(key for key in report["missing_keys"] if task.auto_class != "AutoModel" or "pooler" not in key)
    if missing:
        raise UsageError(
            f"{name!r} has no weights for {missing[0]!r}{f' and {len(missing) - 1} more' if missing[1:] else ''}: "
            f"it was not trained for {task.name}; choose another --task."
        )
    return model.eval(), integers


def _load_tokenizer(name: str, recipe: Recipe) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=recipe.revision, trust_remote_code=recipe.trust_remote_code
        )
    except Exception as e:
        raise ExportError(
            f"the tokenizer of {name!r} cannot be loaded ({first_line(e)}): put its files beside the model."
        ) from e
    # Without its files transformers makes one that knows the special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ExportError(f"the tokenizer of {name!r} has no vocabulary: put its files beside the model.")
    return tokenizer


def _require_fast(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        return tokenizer
    try:
        from transformers import PreTrainedTokenizerFast
        from transformers.convert_slow_tokenizer import convert_slow_tokenizer

        backend = convert_slow_tokenizer(tokenizer)
    except Exception as e:
        raise ExportError(
            f"{type(tokenizer).__name__} of {name!r} has no fast version and cannot be converted ({first_line(e)}): "
            "the runtime needs a tokenizer.json; use a model that has one."
        ) from e
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        **tokenizer.special_tokens_map,
    )


def _add_sentence_head(source: Source, name: str, modules: Any, recipe: Recipe) -> None:
    source.sentence_head = (
        load_sentence_head(modules, lambda file: _cached(name, file, recipe))
        if modules
        else SentenceHead.mean_pooling()
    )
    first = modules[0]["path"] if modules else ""
    limits = _read_json(name, f"{first}/sentence_bert_config.json".lstrip("/"), recipe) or {}
    if isinstance(limits.get("max_seq_length"), int):
        source.max_length = min(source.max_length, limits["max_seq_length"])
    stored = _read_json(name, "config_sentence_transformers.json", recipe) or {}
    source.task_options = {
        "prompts": stored.get("prompts") or {},
        "default_prompt_name": stored.get("default_prompt_name"),
        "similarity_fn_name": stored.get("similarity_fn_name") or "cosine",
    }


def _max_length(source: Source) -> int:
    """The longest input in tokens: the tokenizer's word, bounded by the position table."""
    limit = source.tokenizer.model_max_length
    config = source.config
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    table = getattr(text_config, "max_position_embeddings", None)
    if isinstance(table, int) and table > 0:
        for module_name, module in source.model.named_modules():
            # RoBERTa and its kin start counting positions behind the padding index.
            if (
                "position" in module_name
                and isinstance(module, torch.nn.Embedding)
                and module.num_embeddings == table
                and module.padding_idx is not None
            ):
                table -= module.padding_idx + 1
                break
        limit = min(limit, table)
    return int(limit) if limit < 1_000_000 else 512


def _pipeline_tag(name: str, recipe: Recipe) -> str | None:
    """``pipeline_tag`` of the model card's front matter, if the folder or the hub's repository has one."""
    path = _cached(name, "README.md", recipe)
    if path is None:
        return None
    match = re.match(r"---\n(.*?)\n---", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    tag = re.search(r"^pipeline_tag:\s*([\w-]+)", match.group(1), re.MULTILINE) if match else None
    return tag.group(1) if tag else None


def _cached(name: str, file: str, recipe: Recipe) -> Path | None:
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    try:
        found = cached_file(
            name,
            file,
            revision=recipe.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        return None
    return Path(found) if found else None


def _read_json(name: str, file: str, recipe: Recipe) -> Any:
    path = _cached(name, file, recipe)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ExportError(f"{file} of {name!r} is not valid JSON ({e}): download the model again.") from e


def _explain(name: str, error: Exception) -> ExportError | UsageError:
    """One sentence for the many ways in which transformers says that a model cannot be loaded."""
    text = first_line(error)
    if "trust_remote_code" in str(error):
        return UsageError(
            f"{name!r} brings its own Python code, which is not run: pass --trust-remote-code if you trust it."
        )
    if not Path(name).is_dir() and isinstance(error, OSError):
        return UsageError(f"model {name!r} was not found ({text}): check the id, the network, or give a folder.")
    if isinstance(error, ValueError) and "Unrecognized" in str(error):
        return UsageError(f"{name!r} cannot be loaded by this task's class ({text}): choose another --task.")
    return ExportError(f"{name!r} cannot be loaded ({text}): download the model again.")
