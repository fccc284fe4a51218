"""Tiny random models of many architectures, all made by the same few lines.

``tiny_model("bert", "fill-mask")`` takes transformers' default configuration of a model type and replaces every size
that it knows by a small one. What a configuration calls its sizes is the only thing known here about architectures.
"""

from __future__ import annotations

import functools
import string
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from edgeport_export.tasks import TASKS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["ARCHITECTURES", "Architecture", "tiny_config", "tiny_model", "tiny_tokenizer"]

_SPECIAL = ("[BOS]", "[PAD]", "[EOS]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_IDS = {
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "unk_token_id": 3,
    "cls_token_id": 4,
    "sep_token_id": 5,
    "mask_token_id": 6,
    "decoder_start_token_id": 2,
}

_SIZES_BY_NAME = {
    32: "hidden_size d_model n_embd dim emb_dim embedding_size model_dim word_embed_proj_dim moe_intermediate_size "
    "shared_expert_intermediate_size kv_lora_rank q_lora_rank attention_hidden_size",
    64: "intermediate_size d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim hidden_dim d_inner n_inner dff",
    8: "head_dim d_kv d_head qk_nope_head_dim qk_rope_head_dim v_head_dim attention_head_dim linear_key_head_dim "
    "linear_value_head_dim index_head_dim mamba_headdim mamba_d_state kv_channels",
    4: "num_attention_heads num_heads n_head n_heads encoder_attention_heads decoder_attention_heads n_routed_experts "
    "num_experts num_local_experts index_n_heads linear_num_key_heads linear_num_value_heads",
    2: "num_experts_per_tok n_group",
    1: "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_decoder_layers topk_group "
    "first_k_dense_replace",
    128: "vocab_size",
}
SIZES = {name: size for size, names in _SIZES_BY_NAME.items() for name in names.split()}


@functools.cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer over single characters and a few words."""
    words = ["the", "was", "and", "hour", "##ing", "train", "over", "water"]
    letters = [*string.ascii_lowercase, *string.digits, *".,;:!?'-()@/£"]
    pieces = [*_SPECIAL, *letters, *(f"##{c}" for c in letters[:36]), *words]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [EOS]",
        pair="[CLS] $A [SEP] [SEP] $B:1 [SEP]:1 [EOS]:1",
        special_tokens=[(token, number) for number, token in enumerate(_SPECIAL)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        bos_token="[BOS]",
        pad_token="[PAD]",
        eos_token="[EOS]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_config(model_type: str, **more: Any) -> PretrainedConfig:
    """The default configuration of ``model_type`` with every known size made small; ``more`` overrides."""
    return AutoConfig.for_model(model_type, **{**_small(AutoConfig.for_model(model_type)), **more})


def _small(default: PretrainedConfig) -> dict[str, Any]:
    given = default.to_dict()
    small: dict[str, Any] = {n: size for n, size in SIZES.items() if isinstance(given.get(n), int) or n == "vocab_size"}
    if "block_sizes" in given:
        small.pop("num_hidden_layers", None)
    small |= {name: number for name, number in _IDS.items() if hasattr(default, name)}
    if default.is_encoder_decoder:
        small["decoder_start_token_id"] = _IDS["decoder_start_token_id"]
    for name in ("num_key_value_heads", "num_kv_heads"):
        if isinstance(given.get(name), int):
            small[name] = 4 if given[name] == default.num_attention_heads else 2
    for name, part in vars(default).items():
        if isinstance(part, PretrainedConfig):
            small[name] = {"model_type": part.model_type, **_small(part)}
    return small


def tiny_model(model_type: str, task: str, **more: Any) -> PreTrainedModel:
    """A random model, in eval mode, the same on every call."""
    auto = getattr(transformers, TASKS[task].auto_class)
    torch.manual_seed(0)
    model = auto.from_config(tiny_config(model_type, num_labels=2 if task == "question-answering" else 3, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            # The usual start is so near zero that every attention is uniform, and a lost mask would not show.
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.float().eval()


@dataclass(frozen=True)
class Architecture:
    """A model type, a task, and what capture makes of it."""

    model_type: str
    task: str
    path: str = "fused"
    attentions: int = 1
    """How many of them become one operator, whether plugged in or recognised."""
    more: dict[str, Any] = field(default_factory=dict)
    """Sizes and switches that the generic shrinking does not know."""

    def __str__(self) -> str:
        return f"{self.model_type}-{self.task}"


_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_ROPES = {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}}
_DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}
_BUCKETS = {**_DISENTANGLED, "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
_TWO_LAYERS = {"num_hidden_layers": 2}
_PERCEIVER = {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2}

ARCHITECTURES = (
    Architecture("albert", "fill-mask", attentions=2, more=_TWO_LAYERS),
    Architecture("bart", "text-classification", attentions=3),
    Architecture("bert", "feature-extraction", attentions=2, more=_TWO_LAYERS),
    Architecture("big_bird", "question-answering", "written-out"),
    Architecture("bloom", "token-classification", "written-out", attentions=0),
    Architecture("camembert", "token-classification"),
    Architecture("convbert", "fill-mask", "written-out"),
    Architecture("data2vec-text", "text-classification"),
    Architecture("deberta", "token-classification", "written-out"),
    Architecture("deberta-v2", "text-classification", "written-out", more=_BUCKETS),
    Architecture("distilbert", "question-answering"),
    Architecture("electra", "token-classification"),
    Architecture("ernie", "fill-mask"),
    Architecture("esm", "fill-mask"),
    Architecture("eurobert", "token-classification", attentions=2, more=_TWO_LAYERS),
    Architecture("flaubert", "question-answering", "written-out"),
    Architecture("fnet", "text-classification", "written-out", attentions=0),
    Architecture("gemma3_text", "text-classification"),
    Architecture("gte", "fill-mask"),
    Architecture("jina_embeddings_v3", "feature-extraction"),
    Architecture("layoutlm", "token-classification"),
    Architecture("llama", "text-classification"),
    Architecture("luke", "token-classification", "written-out", more={"entity_vocab_size": 20, "entity_emb_size": 16}),
    Architecture("mbart", "question-answering", attentions=3),
    Architecture("megatron-bert", "text-classification", "written-out"),
    Architecture("mobilebert", "token-classification"),
    Architecture("modernbert", "fill-mask", attentions=2, more=_TWO_LAYERS),
    Architecture("mpnet", "feature-extraction", "written-out", attentions=2, more=_TWO_LAYERS),
    Architecture("mra", "text-classification", "written-out", attentions=0),
    Architecture("nomic_bert", "feature-extraction"),
    Architecture("nystromformer", "fill-mask", "written-out"),
    Architecture("qwen3", "token-classification"),
    Architecture("rembert", "question-answering", "written-out"),
    Architecture("roberta", "question-answering", attentions=2, more=_TWO_LAYERS),
    Architecture("roberta-prelayernorm", "token-classification"),
    Architecture("roc_bert", "text-classification"),
    Architecture("roformer", "token-classification", "written-out"),
    Architecture("splinter", "question-answering"),
    Architecture("squeezebert", "text-classification", "written-out"),
    Architecture("t5", "token-classification", attentions=2, more={"num_layers": 2}),
    Architecture("xlm", "fill-mask", "written-out"),
    Architecture("xlm-roberta", "text-classification"),
    Architecture("xlm-roberta-xl", "fill-mask"),
    Architecture("xmod", "token-classification", more={"default_language": "en_XX"}),
    Architecture("xlnet", "question-answering", "fallback", attentions=0),
    Architecture("yoso", "token-classification", "written-out", attentions=0),
)

# Sizes of the rest, for whoever adds a line.
QUIRKS: dict[str, dict[str, Any]] = {
    "cohere_compass_text": _ROPES,
    "deepseek_v2": {"num_experts_per_tok": 2},
    "funnel": {"block_sizes": [1, 1]},
    "gpt_neo": {"attention_types": [[["local"], 1]], "window_size": 5},
    "gptj": {"rotary_dim": 4},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "input_size": 32},
    "led": {"attention_window": 8, "max_encoder_position_embeddings": 128, "max_decoder_position_embeddings": 128},
    "lilt": {"hidden_size": 48},
    "longformer": {"attention_window": 8},
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 16},
    "ministral": {"head_dim": 8},
    "mistral4": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "perceiver": {**_PERCEIVER, "num_self_attention_heads": 4, "num_cross_attention_heads": 4},
    "reformer": {
        "attention_head_size": 8,
        "axial_pos_embds_dim": [8, 24],
        "axial_pos_shape": [8, 16],
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 16,
        "lsh_attn_chunk_length": 16,
        "feed_forward_size": 64,
        "hash_seed": 0,
    },
    "xmod": {"default_language": "en_XX"},
}
