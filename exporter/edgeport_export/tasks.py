"""What each task means to the exporter: the transformers class, the graph's outputs, and the data for postprocessing.

One row a task. The runtime's side of a task (how its pipeline behaves) is ``edgeport.tasks``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from edgeport.errors import UsageError
from optimum.exporters.tasks import TasksManager
from transformers import PretrainedConfig

__all__ = ["TASKS", "ExportTask", "infer_task", "resolve_task"]


def _no_options(config: PretrainedConfig) -> dict[str, Any]:
    return {}


def _classification_options(config: PretrainedConfig) -> dict[str, Any]:
    """The function that transformers' pipeline would apply to the logits by default."""
    if config.problem_type == "regression":
        function = "none"
    elif config.problem_type == "multi_label_classification" or config.num_labels == 1:
        function = "sigmoid"
    elif config.problem_type == "single_label_classification" or config.num_labels > 1:
        function = "softmax"
    else:
        function = getattr(config, "function_to_apply", None) or "none"
    return {"function_to_apply": function}


def _zero_shot_options(config: PretrainedConfig) -> dict[str, Any]:
    found = [i for i, label in config.id2label.items() if str(label).lower().startswith("entail")]
    return {"entailment_id": int(found[0]) if found else -1}


def _ranking_options(config: PretrainedConfig) -> dict[str, Any]:
    """The activation that sentence-transformers' CrossEncoder would apply by default."""
    stored = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn") or getattr(
        config, "sbert_ce_default_activation_function", None
    )
    if stored:
        kind = str(stored).rsplit(".", 1)[-1].lower()
        known = {"identity": "none", "sigmoid": "sigmoid"}
        if kind not in known:
            raise UsageError(f"activation {stored!r} of the cross-encoder is not supported: Identity and Sigmoid are.")
        return {"function_to_apply": known[kind]}
    return {"function_to_apply": "sigmoid" if config.num_labels == 1 else "none"}


@dataclass(frozen=True)
class ExportTask:
    """One task, as the exporter sees it."""

    name: str
    auto_class: str
    """The ``AutoModelFor...`` class of transformers that loads the model."""
    architecture_suffix: str
    """How the names of the architectures that serve this task end."""
    outputs: tuple[str, ...]
    """The graph's outputs: attributes of the transformers output, in order."""
    padded: tuple[bool, ...]
    """For each output, whether its second axis is the sequence, so that padding has to be left out of comparisons."""
    top_axis: int | None = None
    """The axis over which the predicted label is the largest value; None where there is no label."""
    has_labels: bool = False
    generates: bool = False
    """Whether the model writes text, token by token, with a cache."""
    options: Callable[[PretrainedConfig], dict[str, Any]] = _no_options


TASKS: Mapping[str, ExportTask] = {
    task.name: task
    for task in (
        ExportTask(
            "text-classification",
            "AutoModelForSequenceClassification",
            "ForSequenceClassification",
            ("logits",),
            (False,),
            top_axis=-1,
            has_labels=True,
            options=_classification_options,
        ),
        ExportTask(
            "token-classification",
            "AutoModelForTokenClassification",
            "ForTokenClassification",
            ("logits",),
            (True,),
            top_axis=-1,
            has_labels=True,
        ),
        ExportTask(
            "question-answering",
            "AutoModelForQuestionAnswering",
            "ForQuestionAnswering",
            ("start_logits", "end_logits"),
            (True, True),
            top_axis=1,
        ),
        ExportTask("fill-mask", "AutoModelForMaskedLM", "ForMaskedLM", ("logits",), (True,), top_axis=-1),
        ExportTask("feature-extraction", "AutoModel", "Model", ("last_hidden_state",), (True,)),
        ExportTask("sentence-embedding", "AutoModel", "Model", ("sentence_embedding",), (False,)),
        ExportTask(
            "zero-shot-classification",
            "AutoModelForSequenceClassification",
            "ForSequenceClassification",
            ("logits",),
            (False,),
            top_axis=-1,
            has_labels=True,
            options=_zero_shot_options,
        ),
        ExportTask(
            "text-ranking",
            "AutoModelForSequenceClassification",
            "ForSequenceClassification",
            ("logits",),
            (False,),
            top_axis=-1,
            has_labels=True,
            options=_ranking_options,
        ),
        ExportTask(
            "text-generation",
            "AutoModelForCausalLM",
            "ForCausalLM",
            ("logits",),
            (True,),
            top_axis=-1,
            generates=True,
        ),
    )
}

# Names that people use and optimum's table lacks, or maps to a coarser task than ours.
_SYNONYMS = {
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
    "qa": "question-answering",
    "extractive-qa": "question-answering",
    "embeddings": "sentence-embedding",
    "sentence-embeddings": "sentence-embedding",
    "sentence-similarity": "sentence-embedding",
    "cross-encoder": "text-ranking",
    "reranking": "text-ranking",
    "nli": "zero-shot-classification",
    "causal-lm": "text-generation",
    "chat": "text-generation",
}


def resolve_task(name: str) -> ExportTask:
    """The task called ``name``, synonyms included (ours, then those of optimum's TasksManager).

    Raises:
        UsageError: no such task; the message lists the tasks.
    """
    if name in TASKS:
        return TASKS[name]
    mapped = _SYNONYMS.get(name) or TasksManager.map_from_synonym(name)
    if mapped in TASKS:
        return TASKS[mapped]
    raise UsageError(f"task {name!r} is not supported: choose from {', '.join(TASKS)}.")


def infer_task(
    config: PretrainedConfig, *, architecture: str | None, is_sentence_transformer: bool, pipeline_tag: str | None
) -> ExportTask:
    """The task of a model, from what lies beside its weights.

    A sentence-transformers folder decides first, then the architecture's name, and between tasks that share an
    architecture (classification, zero-shot, ranking) the model card's pipeline tag and what a cross-encoder stores.

    Raises:
        UsageError: nothing tells; the message says to pass ``--task``.
    """
    if is_sentence_transformer:
        return TASKS["sentence-embedding"]
    architecture = architecture or ""
    candidates = [task for task in TASKS.values() if _serves(task, architecture)]
    if not candidates:
        raise UsageError(
            f"the task of architecture {architecture or '(none named)'!r} is not known: "
            f"pass --task, one of {', '.join(TASKS)}."
        )
    names = [t.name for t in candidates]
    if "text-ranking" in names and (
        pipeline_tag == "text-ranking"
        or getattr(config, "sentence_transformers", None)
        or getattr(config, "sbert_ce_default_activation_function", None)
    ):
        return TASKS["text-ranking"]
    if pipeline_tag in names:
        return TASKS[pipeline_tag]
    return candidates[0]


def _serves(task: ExportTask, architecture: str) -> bool:
    """Whether transformers files the architecture under the task, or its name looks like it (remote code)."""
    generators = ("ForConditionalGeneration",) if task.generates else ("LMHeadModel", "ForConditionalGeneration")
    if architecture.endswith(generators) and "WithLMHead" not in architecture:
        return False  # a generator, although some of these are filed under the masked models as well
    mapping = getattr(transformers, task.auto_class)._model_mapping._model_mapping
    filed = {name for names in mapping.values() for name in (names if isinstance(names, tuple) else (names,))}
    return architecture in filed or (
        architecture.endswith(task.architecture_suffix) and "WithLMHead" not in architecture
    )
