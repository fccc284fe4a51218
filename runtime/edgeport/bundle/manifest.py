"""The manifest: what a bundle says about itself, as frozen dataclasses and as JSON.

Knows the schema (``docs/bundle.md``) and nothing of files; ``reader`` and ``writer`` know files and nothing of fields.
The reader and the writer share these classes, so the format cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from edgeport.errors import BundleError

__all__ = ["MANIFEST_NAME", "SCHEMA", "FileRecord", "Manifest", "ModelSource", "TensorSpec", "TextSpec", "Variant"]

MANIFEST_NAME = "edgeport.json"
SCHEMA = 1
"""The schema that this edgeport writes, and the newest that it reads."""

_MAX_TOKENS = 2**24


@dataclass(frozen=True)
class ModelSource:
    """Where the model came from."""

    id: str
    """Hub id, or the folder's name for a local folder."""
    architecture: str
    """The transformers class, e.g. ``BertForSequenceClassification``."""
    model_type: str
    revision: str | None = None
    sha256: str | None = None
    """Of the weights as loaded (names, shapes and bytes)."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the graph. ``shape`` mixes sizes with names such as ``batch`` and ``sequence``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class TextSpec:
    """How text becomes the graph's inputs. The tokenizer itself is the file ``tokenizer``."""

    max_length: int
    """Longest input in tokens, special tokens included."""
    pad_token_id: int
    pad_token: str
    pad_token_type_id: int = 0
    padding_side: str = "right"
    truncation_side: str = "right"
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """By role: ``mask_token``, ``sep_token``, ``cls_token``, ``unk_token``, ..."""
    tokenizer: str = "tokenizer.json"
    fixed_length: int | None = None
    """Set where the graph takes one sequence length only: every input is padded to it."""
    fixed_batch: int | None = None
    clean_up_tokenization_spaces: bool = False
    maskable_padding: bool = True
    """Whether the attention mask hides padding completely; if not, the runtime never pads."""
    add_prefix_space: bool = False
    """Byte-level BPE tokenizers that mark a word's start with a space; matters to pre-split words."""


@dataclass(frozen=True)
class Variant:
    """One way to run the model: a precision, its graphs, what they need, and what was measured."""

    precision: str
    graphs: Mapping[str, str]
    """Component (``model`` for an encoder) to the graph's file."""
    size_bytes: int
    """Graphs and their external data together."""
    opset: int
    min_onnxruntime: str
    providers: tuple[str, ...] = ("cpu",)
    """Short names of the execution providers that the variant was made for, best first."""
    cpu_features: tuple[str, ...] = ()
    """Features (names of /proc/cpuinfo) without which the variant is slow; empty where any CPU will do."""
    operators: Mapping[str, int] = field(default_factory=dict)
    """Operator to count, over all graphs."""
    notes: tuple[str, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    """Parity, agreement and latency as the exporter found them; see docs/bundle.md."""


@dataclass(frozen=True)
class FileRecord:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """Everything that ``edgeport.load`` needs to know, and everything that was measured."""

    task: str
    source: ModelSource
    variants: Mapping[str, Variant]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: Mapping[str, FileRecord]
    text: TextSpec | None = None
    labels: tuple[str, ...] = ()
    """Label of each class, in the order of the logits."""
    task_options: Mapping[str, Any] = field(default_factory=dict)
    """What the task's postprocessing needs beyond the labels, as data."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Every choice of the export; ``edgeport export --recipe`` takes it again."""
    pruning: Mapping[str, Any] = field(default_factory=dict)
    """What was cut out of the original; empty where nothing was."""
    capture: Mapping[str, Any] = field(default_factory=dict)
    """Which path captured the graph, and why."""
    validation: Mapping[str, Any] = field(default_factory=dict)
    """Limits, inputs and verdict of the comparison with the original."""
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The manifest as JSON text, stable in order, ending in a newline."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse and check a manifest.

        Raises:
            BundleError: not JSON, a field is missing or of the wrong type, a newer schema, or an unsafe path.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise BundleError(f"{MANIFEST_NAME} is not valid JSON ({e}): export the model again.") from e
        if not isinstance(data, dict):
            raise BundleError(f"{MANIFEST_NAME} holds {type(data).__name__}, not an object: export the model again.")
        schema = data.get("schema")
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise BundleError(f"{MANIFEST_NAME} has schema {schema!r}, not a whole number: this is no edgeport bundle.")
        if schema > SCHEMA:
            raise BundleError(
                f"the bundle has schema {schema}, and this edgeport reads up to {SCHEMA}: "
                "pip install --upgrade edgeport."
            )
        manifest: Manifest = _build(cls, data, "")
        if not manifest.variants:
            raise BundleError(f"{MANIFEST_NAME} names no variant: export the model again.")
        for name in (*manifest.files, *(g for v in manifest.variants.values() for g in v.graphs.values())):
            check_path(name)
        if manifest.text is not None:
            check_path(manifest.text.tokenizer)
            _check_sizes(manifest.text)
        return manifest


def check_path(name: str) -> str:
    """Return ``name`` if it is a plain relative path inside the bundle.

    Raises:
        BundleError: absolute, with a drive or a backslash, with ``..``, or empty.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or "\\" in name or ":" in name or "\0" in name or ".." in path.parts:
        raise BundleError(f"the bundle names the file {name!r}, which is outside its folder: do not use this bundle.")
    return name


def _check_sizes(text: TextSpec) -> None:
    """Numbers that decide how much is allocated, so that a stranger's typing error does not fill the memory."""
    for name in ("max_length", "fixed_length", "fixed_batch"):
        size = getattr(text, name)
        if size is not None and not 1 <= size <= _MAX_TOKENS:
            raise BundleError(
                f"{MANIFEST_NAME} has text.{name} = {size}, not a number from 1 to {_MAX_TOKENS:,}: "
                "export the model again."
            )


def _build(cls: type, data: Mapping[str, Any], where: str) -> Any:
    """Make the dataclass ``cls`` from ``data``; unknown keys are ignored, so that minor additions stay readable."""
    hints = _type_hints(cls)
    values = {}
    for f in dataclasses.fields(cls):
        path = f"{where}.{f.name}".lstrip(".")
        if f.name in data:
            values[f.name] = _check(hints[f.name], data[f.name], path)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise BundleError(f"{MANIFEST_NAME} lacks {path!r}: export the model again.")
    return cls(**values)


_type_hints = functools.cache(typing.get_type_hints)
"""Slow, where annotations are strings that have to be compiled first; asked for every file and tensor."""


def _check(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _build(typing.cast(type, hint), value, path)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        plain = [a for a in args if a is not type(None)]
        if len(plain) == 1:
            return _check(plain[0], value, path)
        if any(type(value) is a for a in plain):
            return value
    elif origin is tuple and isinstance(value, list):
        return tuple(_check(args[0], v, f"{path}[{i}]") for i, v in enumerate(value))
    elif origin is Mapping and isinstance(value, dict):
        return {k: _check(args[1], v, f"{path}.{k}") for k, v in value.items()}
    elif isinstance(hint, type) and type(value) is hint:
        return value
    want = getattr(hint, "__name__", str(hint))
    raise BundleError(f"{MANIFEST_NAME} has {path} = {value!r:.80}, where {want} is expected: export the model again.")
