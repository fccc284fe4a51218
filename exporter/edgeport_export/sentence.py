"""The modules that a sentence-transformers folder puts behind the transformer: pooling, dense, normalization.

They become part of the graph, so that the runtime gets one vector a text. Knows the folder format of
sentence-transformers (modules.json and one folder a module), not the package itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from edgeport.errors import ExportError
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["SentenceHead", "load_sentence_head"]


class Pooling(nn.Module):
    """Token embeddings (batch, sequence, hidden) and mask (batch, sequence) to vectors (batch, hidden * modes)."""

    MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

    def __init__(self, modes: tuple[str, ...]) -> None:
        super().__init__()
        unknown = [m for m in modes if m not in self.MODES]
        if unknown or not modes:
            raise ExportError(f"pooling {unknown or modes} is not supported: {', '.join(self.MODES)} are.")
        self.modes = modes

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([getattr(self, f"_{mode}")(tokens, mask) for mode in self.modes], dim=-1)

    @staticmethod
    def _cls(tokens: Tensor, mask: Tensor) -> Tensor:
        # The first token that is not padding: padding may stand on the left.
        first = mask.argmax(dim=1)
        return tokens.gather(1, first[:, None, None].expand(-1, -1, tokens.shape[-1]))[:, 0]

    @staticmethod
    def _lasttoken(tokens: Tensor, mask: Tensor) -> Tensor:
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (mask * positions).argmax(dim=1)
        return tokens.gather(1, last[:, None, None].expand(-1, -1, tokens.shape[-1]))[:, 0]

    @staticmethod
    def _max(tokens: Tensor, mask: Tensor) -> Tensor:
        return tokens.masked_fill(mask[..., None] == 0, -1e9).amax(dim=1)

    @staticmethod
    def _sum(tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        # A matrix product instead of a broadcast multiply and a reduction: no copy of the token embeddings.
        weights = weights.to(tokens.dtype)
        return (weights[:, None, :] @ tokens)[:, 0], weights.sum(dim=1, keepdim=True).clamp(min=1e-9)

    def _mean(self, tokens: Tensor, mask: Tensor) -> Tensor:
        total, count = self._sum(tokens, mask)
        return total / count

    def _mean_sqrt_len_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        total, count = self._sum(tokens, mask)
        return total / count.sqrt()

    def _weightedmean(self, tokens: Tensor, mask: Tensor) -> Tensor:
        # Positions count from the first token that is not padding.
        total, count = self._sum(tokens, mask * mask.cumsum(dim=1))
        return total / count


class Dense(nn.Module):
    """A linear layer and an activation, with a way around them where ``residual`` is set."""

    def __init__(
        self, size_in: int, size_out: int, *, bias: bool, activation: nn.Module, residual: bool = False
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(size_in, size_out, bias=bias)
        self.activation = activation
        self.adds = residual
        if residual and size_in != size_out:
            self.residual = nn.Linear(size_in, size_out, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        result = self.activation(self.linear(vectors))
        if not self.adds:
            return result
        return result + (self.residual(vectors) if hasattr(self, "residual") else vectors)


class Normalize(nn.Module):
    """Vectors of length one."""

    def forward(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, p=2.0, dim=-1)


class SentenceHead(nn.Module):
    """Token embeddings and mask to one vector a text."""

    def __init__(self, pooling: Pooling, after: list[nn.Module]) -> None:
        super().__init__()
        self.pooling = pooling
        self.after = nn.Sequential(*after)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.after(self.pooling(tokens, mask))

    @classmethod
    def mean_pooling(cls) -> SentenceHead:
        """What sentence-transformers assumes of a folder that is not its own."""
        return cls(Pooling(("mean",)), []).eval()


def load_sentence_head(modules: list[dict[str, Any]], find: Callable[[str], Path | None]) -> SentenceHead:
    """Build the head from ``modules.json``.

    Args:
        modules: The parsed file: one object a module, with ``type`` and ``path``.
        find: File name to its path, or None where there is none.

    Raises:
        ExportError: a module that has no equivalent here.
    """
    first = str(modules[0]["type"]).rsplit(".", 1)[-1] if modules else "nothing"
    if first != "Transformer":
        raise ExportError(f"a sentence-transformers model that begins with {first!r} is not supported: Transformer is.")
    pooling: Pooling | None = None
    after: list[nn.Module] = []
    for module in modules[1:]:
        kind, path = str(module["type"]).rsplit(".", 1)[-1], str(module["path"])
        if kind == "Pooling":
            pooling = Pooling(_pooling_modes(_config(path, find)))
        elif kind == "Dense":
            after.append(_dense(path, _config(path, find), find))
        elif kind == "LayerNorm":
            after.append(_layer_norm(path, _config(path, find), find))
        elif kind == "Normalize":
            after.append(Normalize())
        elif kind != "Dropout":  # which does nothing at inference
            raise ExportError(
                f"sentence-transformers module {kind!r} is not supported: Pooling, Dense, LayerNorm, Normalize are."
            )
    if pooling is None:
        raise ExportError("modules.json has no Pooling module: pass --task feature-extraction for token embeddings.")
    return SentenceHead(pooling, after).eval()


def _pooling_modes(config: dict[str, Any]) -> tuple[str, ...]:
    if config.get("pooling_mode"):
        stored = config["pooling_mode"]
        return tuple(stored) if isinstance(stored, list) else (str(stored),)
    names = {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens": "weightedmean",
        "pooling_mode_lasttoken": "lasttoken",
    }
    return tuple(mode for key, mode in names.items() if config.get(key)) or ("mean",)


def _config(path: str, find: Callable[[str], Path | None]) -> dict[str, Any]:
    file = find(f"{path}/config.json")
    if file is None:
        raise ExportError(f"{path}/config.json is missing from the sentence-transformers folder: download it again.")
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config


def _weights(path: str, find: Callable[[str], Path | None]) -> dict[str, Tensor]:
    if (file := find(f"{path}/model.safetensors")) is not None:
        return load_file(file)
    if (file := find(f"{path}/pytorch_model.bin")) is not None:
        weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return weights
    raise ExportError(f"{path} has no model.safetensors: download the model again.")


def _dense(path: str, config: dict[str, Any], find: Callable[[str], Path | None]) -> Dense:
    read = config.get("module_input_name", "sentence_embedding")
    if read != "sentence_embedding" or config.get("module_output_name", read) not in (read, None):
        raise ExportError(f"{path} works on {read!r}: a dense layer on anything but the sentence is not supported.")
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    activation = getattr(nn, name, None)
    if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
        raise ExportError(f"activation {name!r} of {path} is not one of torch.nn: it cannot be exported.")
    dense = Dense(
        config["in_features"],
        config["out_features"],
        bias=bool(config.get("bias", True)),
        activation=activation(),
        residual=bool(config.get("use_residual", False)),
    )
    dense.load_state_dict({k: v.float() for k, v in _weights(path, find).items()})
    return dense


def _layer_norm(path: str, config: dict[str, Any], find: Callable[[str], Path | None]) -> nn.LayerNorm:
    norm = nn.LayerNorm(config["dimension"])
    norm.load_state_dict({k.removeprefix("norm."): v.float() for k, v in _weights(path, find).items()})
    return norm
