"""Tiny random models that write text: a model type, the form in which it is captured, and sizes of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["DECODERS", "Decoder"]


@dataclass(frozen=True)
class Decoder:
    """One architecture of ``AutoModelForCausalLM``."""

    model_type: str
    form: str = "plugged"
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        kind = "-alibi" if self.more.get("alibi") else "-rotated" if self.rotated else ""
        return f"{self.model_type}{kind}"

    @property
    def rotated(self) -> bool:
        """Whether its attention has to rotate by itself."""
        return "max_position_embeddings" in self.more


_WINDOW = {"sliding_window": 4, "num_hidden_layers": 2}
_LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
_ROTATED = {"head_dim": 16, "max_position_embeddings": 300}
"""Heads that the attention's operator can rotate by itself, by a table of no round length."""
_DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}
_NEO = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 4}

DECODERS = (
    Decoder("apertus"),
    Decoder("arcee"),
    Decoder("bart", more={"is_decoder": True, "forced_eos_token_id": None}),
    Decoder("bert", more={"is_decoder": True}),
    Decoder("biogpt", more={"is_decoder": True}),
    Decoder("bloom", more={"n_layer": 2}),
    Decoder("codegen", more={"rotary_dim": 4}),
    Decoder("cohere"),
    Decoder("cohere", more=_ROTATED),
    Decoder("cohere2", more={**_WINDOW, **_LAYERS}),
    Decoder("deepseek_v2"),
    Decoder("deepseek_v3", more={"num_hidden_layers": 2}),
    Decoder("diffllama", "appended"),
    Decoder("ernie4_5"),
    Decoder("exaone4", more={**_WINDOW, **_LAYERS}),
    Decoder("falcon"),
    Decoder("falcon", more={"alibi": True, "multi_query": False}),
    Decoder("gemma"),
    Decoder("gemma2", more={**_WINDOW, **_LAYERS}),
    Decoder("gemma3_text", more={**_WINDOW, **_LAYERS}),
    Decoder("gemma3_text", more={**_WINDOW, **_LAYERS, **_ROTATED}),
    Decoder("glm"),
    Decoder("glm", more={**_ROTATED, "head_dim": 32}),
    Decoder("glm4"),
    Decoder("gpt2", more={"n_layer": 2}),
    Decoder("gpt_bigcode"),
    Decoder("gpt_neo", more=_NEO),
    Decoder("gpt_neox"),
    Decoder("gpt_neox", more={"hidden_size": 256, "max_position_embeddings": 300}),
    Decoder("gpt_neox_japanese"),
    Decoder("gpt_oss", more={**_WINDOW, **_LAYERS}),
    Decoder("gptj", more={"rotary_dim": 4}),
    Decoder("granite"),
    Decoder("helium"),
    Decoder("jetmoe"),
    Decoder("llama", more={"num_hidden_layers": 2}),
    Decoder("llama", more={"num_hidden_layers": 2, **_ROTATED, **_DYNAMIC}),
    Decoder("minicpm3"),
    Decoder("mistral", more=_WINDOW),
    Decoder("mistral", more={**_WINDOW, **_ROTATED}),
    Decoder("mixtral"),
    Decoder("mpt", more={"n_layers": 2}),
    Decoder("olmo"),
    Decoder("olmo2"),
    Decoder("openai-gpt", "uncached"),
    Decoder("opt"),
    Decoder("phi"),
    Decoder("phi3", more=_WINDOW),
    Decoder("qwen2"),
    Decoder("qwen3", more={"num_hidden_layers": 2}),
    Decoder("qwen3", more=_ROTATED),
    Decoder("qwen3_moe"),
    Decoder("smollm3"),
    Decoder("stablelm"),
    Decoder("starcoder2", more=_WINDOW),
    Decoder("xglm", more={"attention_heads": 4}),
)
