"""Structured pruning: heads, neurons and layers are cut out of the torch model; the graph is dense and smaller."""

from __future__ import annotations

from edgeport_export.prune.stage import prune, pruning_summary

__all__ = ["prune", "pruning_summary"]
