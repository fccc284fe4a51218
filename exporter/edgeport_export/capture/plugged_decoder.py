"""The plugged form of models whose attention goes through an interface.

Before it is traced, the model with its attention plugged in is compared with the model as it was: rows of different
length that are read together, then go on in a cache with room to spare, give what each row gives when it is read at
once. So an architecture that does something of its own with masks, or takes the cache's size for a row's length,
is captured in another form instead of becoming a wrong graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from edgeport_export.capture.cached_attention import cached_attention
from edgeport_export.capture.decoder_head import CacheShapes, DecoderHead
from edgeport_export.capture.graph import nearly_equal
from edgeport_export.capture.tracing import trace

__all__ = ["UnreachedError", "capture_plugged"]

_LENGTHS, _STEP, _SPARE = (5, 4), 2, 4
"""Tokens of the rows' prompts, tokens that both read after them, and room that stays empty."""


class UnreachedError(ValueError):
    """The model computes its attention by itself."""


def capture_plugged(model: PreTrainedModel, layers: int, *, opset: int) -> ir.Model:
    """Capture ``model``, which has that many layers.

    Raises:
        UnreachedError: no attention was met at an interface.
        ValueError: the plugged model is another one.
        Exception: whatever torch.onnx raises.
    """
    head = DecoderHead(model, "plugged", _checked(model, layers))
    with cached_attention(model):
        return trace(head, head.sample(), head.axes(), opset=opset)


@torch.no_grad()
def _checked(model: PreTrainedModel, layers: int) -> CacheShapes:
    """The cache's shapes, after the comparison."""
    head = DecoderHead(model, "plugged", [((0, 0), (0, 0))] * layers)
    texts = [torch.arange(max(_LENGTHS) + _STEP) + 3 + 7 * row for row in range(len(_LENGTHS))]
    pairs = list(zip(texts, _LENGTHS, strict=True))
    expected = model(input_ids=torch.stack(texts), use_cache=False, return_dict=True).logits
    with cached_attention(model) as calls:
        try:
            read, *past = _run(head, [text[:length] for text, length in pairs], (), 0)
        except Exception as e:
            if calls():
                raise
            raise UnreachedError("attention does not go through an interface") from e
        shapes = [(tensor.shape[1], tensor.shape[3]) for tensor in past]
        wide = [pad(tensor, (0, 0, 0, _STEP + _SPARE), value=1.0) for tensor in past]
        went_on, *_ = _run(head, [text[length:][:_STEP] for text, length in pairs], wide, _LENGTHS)
    for row, length in enumerate(_LENGTHS):
        got = torch.cat([read[row, :length], went_on[row]])
        whole = expected[row, : len(got)]
        if got.shape != whole.shape or not nearly_equal(got, whole):
            raise ValueError("plugged in, the model has other logits: it does something of its own")
    return list(zip(shapes[::2], shapes[1::2], strict=True))


def _run(
    head: DecoderHead, rows: Sequence[Tensor], past: Sequence[Tensor], read: Sequence[int] | int
) -> tuple[Tensor, ...]:
    """Let the rows go on from ``read`` tokens each."""
    lengths = torch.tensor([len(row) for row in rows])
    new = int(lengths.max())
    before = torch.tensor(read).expand(len(rows))
    given = {
        "input_ids": torch.stack([pad(row, (0, new - len(row))) for row in rows]),
        "logits_at": torch.arange(new).expand(len(rows), -1),
        "position_ids": before[:, None] + torch.arange(new),
        "last": (before + lengths - 1).int(),
        "total": (before + lengths).max().int(),
    }
    empty = torch.empty(0, 0, 0, 0)
    caches = iter(past or [empty] * 2 * len(head.cache))
    result: tuple[Tensor, ...] = head(*(given[n] if n in given else next(caches) for n in head.names))
    return result
