"""For all tests: one thread for torch, whose threads wait by spinning while other tests share the cores."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

CHAT_TEMPLATE = """\
{%- for message in messages %}
{%- if message.role == 'system' and '£' in message.content %}{{ raise_exception('money is no matter') }}{% endif %}
{{- message.role + ': ' + message.content + ' / ' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""


@dataclass(frozen=True)
class TinyWriter:
    """A tiny random Llama with a chat template and a context of 96 tokens, and its export."""

    original: Path
    bundle: Path
    plain: Path
    """The same bundle without the template."""


@pytest.fixture(scope="session")
def tiny_writer(tmp_path_factory: pytest.TempPathFactory) -> TinyWriter:
    """Exported once; not to be changed."""
    from architectures import tiny_model, tiny_tokenizer
    from edgeport_export import Recipe, export

    folder = tmp_path_factory.mktemp("writer")
    made = TinyWriter(folder / "tiny-llama", folder / "bundle", folder / "plain")
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(made.original)
    model = tiny_model("llama", "text-generation", num_hidden_layers=2, max_position_embeddings=96)
    model.save_pretrained(made.original)
    export(made.original, made.bundle, Recipe(precisions=("fp32", "int8")))
    shutil.copytree(made.bundle, made.plain)
    manifest = made.plain / "edgeport.json"
    stored = json.loads(manifest.read_text(encoding="utf-8"))
    stored["task_options"]["chat_template"] = None
    manifest.write_text(json.dumps(stored), encoding="utf-8")
    return made
