"""Load a model whose checkpoint comes quantized, without the packages that quantized it.

The packed layers become plain weights, the values that their integers stand for, and the integers are kept beside the
model: a variant of as many bits stores exactly those (see ``quantize.handed_over``). Knows transformers' loaders and
safetensors; how layers are packed is in ``quantize.checkpoint``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from edgeport.errors import ExportError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgeport_export.quantize.blockwise import Quantized
from edgeport_export.quantize.checkpoint import Format, format_of, unpacked

__all__ = ["load_packed", "packed_format"]

_WEIGHTS = "model.safetensors"
_SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")


def packed_format(config: PretrainedConfig) -> Format | None:
    """How the checkpoint packs its layers; None if it is a plain one.

    Raises:
        ExportError: it is packed in a way that is not read.
    """
    found = getattr(config, "quantization_config", None)
    if not found:
        return None
    return format_of(found if isinstance(found, Mapping) else found.to_dict())


def load_packed(
    auto: Any, config: PretrainedConfig, form: Format, fetch: Callable[[str], Path | None], *, trust_remote_code: bool
) -> tuple[PreTrainedModel, Mapping[str, Any], dict[str, Quantized]]:
    """The model in fp32, transformers' report on its loading, and the integers by the names of the weights.

    Args:
        auto: One of transformers' auto classes.
        config: The checkpoint's.
        form: How its layers are packed.
        fetch: A file of the checkpoint by its name, None if there is none.
        trust_remote_code: Passed on to transformers.

    Raises:
        ExportError: a file or tensor is missing, or is not what the others ask for.
    """
    tensors: dict[str, Tensor] = {}
    for file in _files(fetch):
        tensors.update(load_file(file))
    names = {name.rpartition(".")[0] for name in tensors if name.endswith((".qweight", ".qzeros"))}
    if not names:
        raise ExportError("config.json says that the checkpoint is quantized, and no layer is: remove the entry.")
    layers: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in list(tensors):
        layer, _, suffix = name.rpartition(".")
        if layer in layers and suffix in _SUFFIXES:
            tensor = tensors.pop(name)
            layers[layer][suffix] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    integers = {f"{name}.weight": quantized for name, quantized in unpacked(layers, form).items()}
    del layers
    config = copy.deepcopy(config)
    del config.quantization_config
    with torch.device("meta"):
        like = auto.from_config(config, trust_remote_code=trust_remote_code)
    turned = [f"{name}.weight" for name, module in like.named_modules() if isinstance(module, Conv1D)]
    for name, quantized in integers.items():
        rows = torch.from_numpy(quantized.dequantized())
        tensors[name] = rows.T.contiguous() if any(_same(name, other) for other in turned) else rows
    model, report = type(like).from_pretrained(
        None, config=config, state_dict=tensors, dtype=torch.float32, output_loading_info=True
    )
    return model, report, integers


def _files(fetch: Callable[[str], Path | None]) -> Iterator[Path]:
    """The file of weights, or all of its parts."""
    whole, index = fetch(_WEIGHTS), fetch(f"{_WEIGHTS}.index.json")
    if whole is not None:
        yield whole
    elif index is None:
        raise ExportError(f"the checkpoint is quantized and has no {_WEIGHTS}: other files are not read.")
    else:
        for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())):
            part = fetch(name) if Path(name).name == name and name.endswith(".safetensors") else None
            if part is None:
                raise ExportError(f"{index.name} names {name!r}, which is not there: download the model again.")
            yield part


def _same(one: str, other: str) -> bool:
    """Whether the names are of the same weight, in a model with and without a head."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")
