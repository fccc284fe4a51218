"""The model that a bundle was made of: where it is, and what torch and the peers have to know to load it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeport.bundle import TextSpec
from edgeport.errors import MissingExtraError, UsageError

from edgeport_bench.inputs import TextInputs

__all__ = ["Original", "model_folder", "read_original"]


@dataclass(frozen=True)
class Original:
    """A transformers model."""

    model: str
    """Hub id or folder."""
    task: str
    architecture: str
    outputs: tuple[str, ...]
    """Those that are compared."""

    def options(self, threads: int) -> dict[str, Any]:
        """What every subject that loads it is told."""
        return {
            "model": self.model,
            "task": self.task,
            "architecture": self.architecture,
            "outputs": list(self.outputs),
            "threads": threads,
        }


def model_folder(name: str) -> Path:
    """The folder of a model, from the hub's cache where ``name`` is a hub id.

    Raises:
        UsageError: it is neither.
    """
    if Path(name).is_dir():
        return Path(name).resolve()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as e:  # its errors share no class
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:160].rstrip(".")
        raise UsageError(f"the original {name!r} is no folder and no model that the hub gives ({reason}).") from e


def read_original(name: str, task: str | None = None) -> tuple[Original, TextInputs]:
    """A Hugging Face model, and how its texts become inputs; no weights are read.

    Raises:
        MissingExtraError: transformers is absent.
        UsageError: there is no such model, or its task is not known.
    """
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise MissingExtraError("measuring a Hugging Face model", "export")
    from edgeport_export.recipe import Recipe
    from edgeport_export.source import settle_task

    folder = model_folder(name)
    config, export_task, _ = settle_task(str(folder), Recipe(task=task))
    architecture = (getattr(config, "architectures", None) or [None])[0]
    if architecture is None:
        raise UsageError(f"{name!r} names no architecture in its config.json: add one.")
    original = Original(str(folder), export_task.name, architecture, export_task.outputs)
    return original, _text_inputs(folder, config, architecture)


def _text_inputs(folder: Path, config: Any, architecture: str) -> TextInputs:
    import inspect

    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(f"{str(folder)!r} has no tokenizer.json: save a fast tokenizer beside the model.")
    taken = inspect.signature(getattr(transformers, architecture).forward).parameters
    names = tuple(n for n in ("input_ids", "attention_mask", "token_type_ids") if n in taken)
    names = tuple(n for n in names if n in tokenizer.model_input_names)
    table = getattr(config, "max_position_embeddings", None) or 512
    limit = int(min(tokenizer.model_max_length, table))
    spec = TextSpec(
        max_length=limit,
        pad_token_id=tokenizer.pad_token_id or 0,
        pad_token=tokenizer.pad_token or "",
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
    )
    return TextInputs(folder / "tokenizer.json", spec, names, table)
