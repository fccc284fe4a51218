"""What operators take on this machine, and what the machine could do at best."""

from __future__ import annotations

from edgeport_export.profile.description import describe, read_description
from edgeport_export.profile.operators import NodeWeights, OperatorRun, node_weights, read_profile
from edgeport_export.profile.roofline import Machine, Roofline, measure_machine, measure_roofline

__all__ = [
    "Machine",
    "NodeWeights",
    "OperatorRun",
    "Roofline",
    "describe",
    "measure_machine",
    "measure_roofline",
    "node_weights",
    "read_description",
    "read_profile",
]
