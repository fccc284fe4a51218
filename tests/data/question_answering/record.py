"""Record what the question-answering pipeline of transformers 4.57 answers.

transformers 5 has no such pipeline, so its answers are kept here. To record them again, run this file in an environment
that has ``torch`` and ``transformers==4.57.3``:

    python tests/data/question_answering/record.py

It reads ``*/tokenizer.json`` beside it, makes a tiny random model for each, and writes ``*/model.safetensors``,
``*/config.json`` and ``answers.json``.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

HERE = Path(__file__).parent
MAX_LENGTH = 128

ROBERTA = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
KINDS: dict[str, tuple[Any, dict[str, str]]] = {
    "wordpiece": (
        transformers.BertConfig,
        {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"},
    ),
    "bpe": (transformers.RobertaConfig, ROBERTA),
    "unigram": (transformers.XLMRobertaConfig, ROBERTA),
}

SHORT = "My name is Wolfgang and I live in Berlin, not in Paris."
OTHER = "Marie Curie (born in Warsaw) won two Nobel prizes; she didn't care. Naïve 漢字 café!"
LONG = " ".join([SHORT, OTHER, "Edge devices have little memory, so models must be small and fast."] * 4)

ONE = {"question": "Where do I live?", "context": SHORT}
TWO = {"question": "Who won?", "context": OTHER}
FAR = {"question": "What must models be?", "context": LONG}

INPUTS: list[dict[str, Any]] = [
    ONE,
    TWO,
    FAR,
    {"question": ["Where do I live?", "What is my name?"], "context": SHORT},
    {"question": ["Where?", "Who?", "What?"], "context": [SHORT, OTHER, LONG]},
    {"question": ["Where?"], "context": [SHORT]},
    {"question": "Who?", "context": "Berlin"},
    {"question": "Where?", "context": "Berlin, berlin or BERLIN: in Berlin"},
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 4},
    {"top_k": 40},
    {"top_k": 3, "align_to_words": False},
    {"align_to_words": False, "max_answer_len": 1},
    {"max_answer_len": 3, "top_k": 2},
    {"max_answer_len": 100, "top_k": 5},
    {"handle_impossible_answer": True},
    {"handle_impossible_answer": True, "top_k": 6},
    {"max_seq_len": 40, "doc_stride": 10, "top_k": 3},
    {"max_seq_len": 50, "doc_stride": 0, "top_k": 2},
    {"max_seq_len": 64, "doc_stride": 32, "handle_impossible_answer": True, "top_k": 3},
    {"max_question_len": 2, "top_k": 2},
]
LEFT_INPUTS = (0, 2)
LEFT_OPTIONS = (0, 1, 7, 9, 10, 11)
"""What a tokenizer that pads on the left is asked, by position in the lists above."""


def main() -> None:
    """Make the models, ask them, and write the answers."""
    warnings.simplefilter("ignore")
    records = []
    for kind, (config, special) in KINDS.items():
        folder = HERE / kind
        for side in ("right", "left"):
            tokenizer = transformers.PreTrainedTokenizerFast(
                tokenizer_file=str(folder / "tokenizer.json"),
                model_max_length=MAX_LENGTH,
                padding_side=side,
                add_prefix_space=True,  # as tokenizer.json says; the class would change it
                model_input_names=["input_ids", "attention_mask"],
                **special,
            )
            model = make(config, tokenizer)
            if side == "right":
                model.save_pretrained(folder)
            pipeline = transformers.pipeline("question-answering", model=model, tokenizer=tokenizer)
            for i, given in enumerate(INPUTS):
                for j, options in enumerate(OPTIONS):
                    if side == "right" or (i in LEFT_INPUTS and j in LEFT_OPTIONS):
                        records.append([kind, side, i, j, pipeline(**given, **options)])
    data = {"max_length": MAX_LENGTH, "inputs": INPUTS, "options": OPTIONS}
    head = json.dumps(data, ensure_ascii=False, indent=1).removesuffix("\n}")
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (HERE / "answers.json").write_text(f'{head},\n "records": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{len(records)} calls recorded with transformers {transformers.__version__}")


def make(config: Any, tokenizer: Any) -> Any:
    """A tiny random model whose tokens do not all look alike to it."""
    torch.manual_seed(3)
    model = transformers.AutoModelForQuestionAnswering.from_config(
        config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=MAX_LENGTH + 8,
            type_vocab_size=1,
            initializer_range=0.15,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight *= 10
        model.qa_outputs.weight *= 3
    return model


if __name__ == "__main__":
    main()
