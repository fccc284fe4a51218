"""Text generation: the model and its cache (decoder), what is done to logits, and how tokens are searched.

The searches know no graph and no task: ``model.Model`` is all that they see of a decoder.
"""

from __future__ import annotations

from edgeport.generate.beam import beam_search
from edgeport.generate.config import GenerationConfig
from edgeport.generate.decoder import Decoder, cache_shapes, open_decoder
from edgeport.generate.model import Model
from edgeport.generate.processors import Processor, make_processors
from edgeport.generate.result import FinishReason, Generated, TokenLogprobs
from edgeport.generate.run import generate
from edgeport.generate.search import Step, collect, search
from edgeport.generate.stopping import Cancel, Stopping, StopStrings
from edgeport.generate.streaming import TextStream, pieces

__all__ = [
    "Cancel",
    "Decoder",
    "FinishReason",
    "Generated",
    "GenerationConfig",
    "Model",
    "Processor",
    "Step",
    "StopStrings",
    "Stopping",
    "TextStream",
    "TokenLogprobs",
    "beam_search",
    "cache_shapes",
    "collect",
    "generate",
    "make_processors",
    "open_decoder",
    "pieces",
    "search",
]
