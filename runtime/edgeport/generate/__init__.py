"""Text generation: the model and its cache (decoder), what is done to logits, and how tokens are searched."""

from edgeport.generate.config import GenerationConfig
from edgeport.generate.decoder import Decoder, cache_shapes, decoder_options, open_decoder
from edgeport.generate.run import generate
from edgeport.generate.search import search
from edgeport.generate.streaming import TextStream

__all__ = [
    "Decoder",
    "GenerationConfig",
    "TextStream",
    "cache_shapes",
    "decoder_options",
    "generate",
    "open_decoder",
    "search",
]
