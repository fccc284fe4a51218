"""Structured pruning: heads, neurons, layers and words are cut out of the torch model; the graph is dense."""

from __future__ import annotations

from edgeport_export.prune.stage import prune, pruning_notes, pruning_summary

__all__ = ["prune", "pruning_notes", "pruning_summary"]
