"""``edgeport bench machine``: what this processor can do, as ``edgeport compress --target`` reads it."""

from __future__ import annotations

import dataclasses
import json

from edgeport.session import processor_name, usable_threads
from edgeport_export.profile import describe, measure_machine

__all__ = ["run_machine"]


def run_machine(threads: int | None, *, as_json: bool) -> int:
    """Measure this machine with so many threads, or all that there are, and print it."""
    machine = measure_machine(threads or usable_threads())
    if as_json:
        print(json.dumps({"name": processor_name(), **dataclasses.asdict(machine)}, indent=2))
    else:
        print(describe(processor_name(), machine), end="")
    return 0
