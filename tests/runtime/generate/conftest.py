"""Tiny random decoders in torch, and the runtime's view of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers

VOCAB = 97


class TorchModel:
    """The protocol of ``edgeport.generate.model`` over a transformers model, without a cache: every step reads all."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.vocab_size = VOCAB
        self.rows: list[list[int]] = []
        self.steps = 0

    def start(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        self.rows = [list(prompt) for prompt in prompts]
        return self._logits()

    def step(self, tokens: np.ndarray) -> np.ndarray:
        assert len(tokens) == len(self.rows)
        self.rows = [[*row, int(token)] for row, token in zip(self.rows, tokens, strict=True)]
        self.steps += 1
        return self._logits()

    def reorder(self, rows: np.ndarray) -> None:
        self.rows = [self.rows[row] for row in rows]

    def _logits(self) -> np.ndarray:
        length = max(map(len, self.rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in self.rows])
        with torch.inference_mode():
            logits = self._model(input_ids=ids, use_cache=False).logits
        result = np.stack([logits[i, len(row) - 1].float().numpy() for i, row in enumerate(self.rows)])
        result.flags.writeable = False
        return result


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def reference(request: pytest.FixtureRequest) -> Any:
    """The transformers model, with weights large enough that greedy search does not fall into a loop at once."""
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "initializer_range": 0.6, "bos_token_id": None, "eos_token_id": None}
    config: Any
    if request.param == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **sizes)
    else:
        config = transformers.LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            **sizes,
        )
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.generation_config = transformers.GenerationConfig()
    return model


@pytest.fixture
def wrap() -> Callable[[Any], TorchModel]:
    return TorchModel


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Ragged."""
    generator = np.random.default_rng(0)
    return [generator.integers(3, VOCAB, length).tolist() for length in (5, 1, 9, 3)]


@pytest.fixture
def theirs() -> Callable[..., Any]:
    """New tokens of each row from ``model.generate``, up to the one that ends it, and the scores of beam search."""

    def generate(model: Any, prompts: list[list[int]], **options: Any) -> tuple[list[list[int]], list[float] | None]:
        length = max(map(len, prompts))
        ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
        ends = options.get("eos_token_id")
        ends = [] if ends is None else [ends] if isinstance(ends, int) else ends
        rows = []
        for row in out.sequences[:, length:].tolist():
            cut = [i + 1 for i, token in enumerate(row) if token in ends]
            rows.append(row[: cut[0]] if cut else row)
        scores = getattr(out, "sequences_scores", None)
        return rows, None if scores is None else scores.tolist()

    return generate


@pytest.fixture(scope="session")
def open_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """``open_tiny("llama")``: a real decoder with an empty cache over a tiny exported model of 128 tokens."""
    import onnx_ir as ir
    from architectures import tiny_model
    from edgeport.generate import open_decoder
    from edgeport.session import open_plain_session
    from edgeport_export.capture import capture_decoder
    from edgeport_export.passes import FINISH, PREPARE, run_passes

    made: dict[str, Any] = {}

    def open_(model_type: str) -> Any:
        if model_type not in made:
            torch.manual_seed(0)
            captured = capture_decoder(tiny_model(model_type, "text-generation"), opset=20)
            graph = run_passes(run_passes(captured.model, PREPARE), FINISH["fp32"])
            path = tmp_path_factory.mktemp(model_type) / "model.onnx"
            ir.save(graph, path)
            made[model_type] = open_plain_session(path, threads=1)
        return open_decoder(made[model_type], vocab_size=128, context_length=128)

    return open_


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a tiny Llama, fp32 and int8, of 128 tokens of context."""
    from architectures import tiny_model, tiny_tokenizer
    from edgeport_export import Recipe, export

    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("bundle") / "llama"
    model = tiny_model("llama", "text-generation", max_position_embeddings=128)
    export(model, out, Recipe(precisions=("fp32", "int8")), tokenizer=tiny_tokenizer())
    return out
