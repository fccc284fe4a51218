"""Text to the graph's inputs and back: tokenizing, truncation, padding, decoding. Knows no task and no session."""

from edgeport.text.batching import Batch, Padding, plan
from edgeport.text.encoder import TextEncoder
from edgeport.text.truncation import Strategy, Truncation

__all__ = ["Batch", "Padding", "Strategy", "TextEncoder", "Truncation", "plan"]
