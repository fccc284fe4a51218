"""The module that is exported: a transformers model with plain tensors in and plain tensors out."""

from __future__ import annotations

import inspect

import torch
from edgeport.errors import ExportError
from torch import Tensor, nn

from edgeport_export.messages import first_line, root_cause
from edgeport_export.samples import Batch, input_names
from edgeport_export.source import Source

__all__ = ["ExportHead"]


class ExportHead(nn.Module):
    """``source``'s model, taking the tensors named by ``names`` in order and returning the task's outputs."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.model = source.model
        self.sentence_head = source.sentence_head
        self.names = input_names(source)
        self.outputs = source.task.outputs
        taken = inspect.signature(source.model.forward).parameters
        # No cache: an encoder has none, and a decoder that classifies needs none.
        self.options = {"use_cache": False} if "use_cache" in taken else {}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(self.names, tensors, strict=True))
        result = self.model(**inputs, **self.options, return_dict=True)
        if self.sentence_head is not None:
            return (self.sentence_head(result.last_hidden_state, inputs["attention_mask"]),)
        return tuple(getattr(result, name) for name in self.outputs)

    def of_layers(self, layers: int) -> ExportHead:
        """One for the model while it has only so many layers: none of its inputs is a layer's."""
        return self

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs for a batch, without gradients.

        Raises:
            ExportError: the model wants more than its text inputs.
        """
        with torch.inference_mode():
            try:
                return self(*(torch.from_numpy(batch[name]) for name in self.names))
            except Exception as e:
                raise ExportError(
                    f"{type(self.model).__name__} does not run on {', '.join(self.names)} "
                    f"({first_line(root_cause(e), 160)}): edgeport exports models that need nothing but text."
                ) from e
