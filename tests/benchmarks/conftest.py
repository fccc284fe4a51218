"""The benchmarks' tests run a bundle small enough to read."""

from tiny_bundle import tiny_bundle

__all__ = ["tiny_bundle"]
