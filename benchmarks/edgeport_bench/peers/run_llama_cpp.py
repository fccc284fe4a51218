"""llama.cpp through llama-cpp-python; the GGUF file is written here, its blocks quantized by the ``gguf`` package."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeport_bench.subjects import Array

__all__ = ["LlamaCppWriter", "open_subject", "prepare"]

_ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' model types to llama.cpp's."""


def prepare(options: Mapping[str, Any]) -> None:
    """Write ``model.gguf``, without a vocabulary: only token ids are measured.

    Raises:
        NotImplementedError: an architecture that is not in the table above.
    """
    import gguf
    from safetensors.numpy import load_file

    model = Path(options["model"])
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    architecture = _ARCHITECTURES.get(config["model_type"])
    if architecture is None:
        raise NotImplementedError(
            f"GGUF files are written for {', '.join(_ARCHITECTURES)}, not for {config['model_type']}"
        )
    quantization = gguf.GGMLQuantizationType[options["flavour"].upper()]
    writer = gguf.GGUFWriter(Path(options["folder"]) / "model.gguf", architecture)
    _write_settings(writer, config)
    weights = {n: a for path in sorted(model.glob("*.safetensors")) for n, a in load_file(path).items()}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], _layers(config))
    for name, array in _tensors(weights, config, architecture).items():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        array = np.ascontiguousarray(array, dtype=np.float32)
        if array.ndim == 2 and "position" not in target:
            writer.add_tensor(target, gguf.quants.quantize(array, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(target, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _layers(config: Mapping[str, Any]) -> int:
    return int(config.get("n_layer") or config["num_hidden_layers"])


def _write_settings(writer: Any, config: Mapping[str, Any]) -> None:
    """The sizes of the model, by GGUF's names."""
    hidden = config.get("n_embd") or config["hidden_size"]
    heads = config.get("n_head") or config["num_attention_heads"]
    writer.add_context_length(config.get("n_positions") or config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(_layers(config))
    writer.add_feed_forward_length(config.get("n_inner") or config.get("intermediate_size") or 4 * hidden)
    writer.add_head_count(heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    if config["model_type"] == "gpt2":
        writer.add_layer_norm_eps(config.get("layer_norm_epsilon", 1e-5))
        return
    size = config.get("head_dim") or hidden // heads
    rope = config.get("rope_parameters") or {}
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.get("rope_theta") or rope.get("rope_theta") or 10000.0)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _tensors(weights: Mapping[str, Array], config: Mapping[str, Any], architecture: str) -> dict[str, Array]:
    """The weights as llama.cpp reads them, by transformers' names."""
    found = {}
    for name, array in weights.items():
        if name.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")):
            continue
        if architecture == "gpt2" and array.ndim == 2 and ".h." in f".{name}":
            array = array.T
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config["num_attention_heads"]
            array = _interleave(array, heads if "q_proj" in name else config.get("num_key_value_heads") or heads)
        found[name] = array
    tied = next(
        (name for name in ("transformer.wte.weight", "model.embed_tokens.weight", "wte.weight") if name in found), None
    )
    if "lm_head.weight" not in found and tied:
        found["lm_head.weight"] = found[tied]
    return found


def _interleave(array: Array, heads: int) -> Array:
    """Rows of each head from halves, as transformers rotates them, to pairs, as llama.cpp does."""
    return array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def open_subject(options: Mapping[str, Any]) -> LlamaCppWriter:
    """Open the GGUF file."""
    from llama_cpp import Llama

    path, threads = Path(options["folder"]) / "model.gguf", options["threads"]
    model = Llama(str(path), n_ctx=0, n_threads=threads, n_threads_batch=threads, verbose=False)
    return LlamaCppWriter(model, path.stat().st_size)


class LlamaCppWriter:
    """It writes one text at a time."""

    def __init__(self, model: Any, size: int) -> None:
        self._model = model
        self._size = size

    def write(self, prompts: Array, count: int, each: Callable[[], None]) -> Array:
        token, found = self._start(prompts), []
        for i in range(count):
            found.append(token)
            each()
            if i < count - 1:
                token = self._next([token])
        return np.array([found])

    def follow(self, prompts: Array, tokens: Array) -> Array:
        found = [self._start(prompts)]
        found += [self._next([token]) for token in tokens[0, :-1].tolist()]
        return np.array([found])

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size}

    def close(self) -> None:
        self._model.close()

    def _start(self, prompts: Array) -> int:
        if len(prompts) != 1:
            raise NotImplementedError("this peer writes one text at a time")
        self._model.reset()
        return self._next(prompts[0].tolist())

    def _next(self, tokens: list[int]) -> int:
        """The likeliest token after ``tokens``, which go behind what was read before."""
        self._model.eval(tokens)
        logits = np.ctypeslib.as_array(self._model._ctx.get_logits(), shape=(self._model.n_vocab(),))
        return int(np.argmax(logits))
